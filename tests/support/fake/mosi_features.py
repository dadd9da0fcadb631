"""Small generated files of MosiFeatures in the true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_mm.data import MosiFeatures
from lightning_mm.data.datasets.mosi_features import FEATURES

NUMBERS = (10, 2, 1, 30)  # as in the release: not in the order of time, with gaps


def part_of(part: str, videos: list[str], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Four utterances a video; the first feature of every modality is the number, the second is constant in train."""
    keys = [(video, number) for video in videos for number in NUMBERS]
    arrays = {
        f"{part}_utt_id": np.array([f"{video}_{number}" for video, number in keys]),
        f"{part}_video_id": np.array([video for video, _ in keys]),
        f"{part}_transcript": np.array(["WELL"] * len(keys)),
        f"{part}_label": np.array([int(number != 30) for _, number in keys]),
    }
    for name, width in MosiFeatures.channels.items():
        values = rng.normal(5, 3, (len(keys), width))
        values[:, 0] = [number for _, number in keys]
        values[:, 1] = 0.1 if part == "train" else rng.normal(0, 1, len(keys))
        arrays[f"{part}_{name}"] = values
    return arrays


def arrays(train: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    learning = part_of("train", [f"a_{i:02d}" for i in range(train)], rng)
    return {**learning, **part_of("test", ["t_0", "t_1", "t_2"], rng)}


def write(root: Path, content: dict[str, np.ndarray] | None = None) -> Path:
    root.mkdir(exist_ok=True)
    np.savez(root / FEATURES, **(arrays() if content is None else content))
    return root
