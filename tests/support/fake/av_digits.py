"""Small generated files of AVDigits in the true layout."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from lightning_mm.data.datasets.av_digits import IMAGES, LABELS, RECORDINGS, SPEAKERS

INDICES = (0, 4, 5, 9, 10, 11, 49)  # two of test, two of validation, three of training
COUNT = 400


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), 1))


def arrays() -> dict[str, np.ndarray]:
    """Every digit by every speaker; recording k is a tone with noise, k + 900 samples long, in mixed order."""
    rng = np.random.default_rng(0)
    keys = [(digit, speaker, index) for digit in range(10) for speaker in SPEAKERS for index in INDICES]
    keys = [keys[i] for i in rng.permutation(len(keys))]
    lengths = [900 + k for k in range(len(keys))]
    sounds = [
        3000 * np.sin(0.1 * (1 + digit) * np.arange(n)) + rng.normal(0, 100, n)
        for (digit, _, _), n in zip(keys, lengths)
    ]
    digit, speaker, index = (np.array(column) for column in zip(*keys))
    return {
        "samples": np.concatenate(sounds).astype(np.int16),
        "length": np.array(lengths),
        "digit": digit,
        "speaker": speaker,
        "index": index,
        "is_test": index < 5,
        "sample_rate": np.array(8000),
    }


def write(root: Path) -> Path:
    root.mkdir()
    labels = np.arange(COUNT) % 10
    images = np.zeros((COUNT, 28, 28))
    images[:, 0, 0], images[:, 0, 1], images[:, 0, 2] = labels, np.arange(COUNT) // 100, np.arange(COUNT) % 100
    write_idx(root / IMAGES, images)
    write_idx(root / LABELS, labels)
    np.savez(root / RECORDINGS, **arrays())
    return root
