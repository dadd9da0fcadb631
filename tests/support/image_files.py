"""Image files in forms that Pillow does not write, for data sets of pictures."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

_COLOURS = {1: 0, 3: 2, 4: 6}


def save(path: Path, values: np.ndarray) -> Path:
    """Write ``[H, W]`` or ``[H, W, C]``: arrays as ``.npy``, 16 bits as PNG, 8 bits as the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    elif values.dtype == np.uint16:
        path.write_bytes(png16(values))
    else:
        Image.fromarray(values.astype(np.uint8)).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits, its rows filtered in all five ways in turn, as the format's specification has them."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    step = 2 * channels  # bytes of a pixel
    rows = np.ascontiguousarray(values.astype(">u2")).view(np.uint8).reshape(height, -1).astype(int)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    left, corner = (np.hstack([np.zeros((height, step), int), one[:, :-step]]) for one in (rows, above))
    predictions = [np.zeros_like(rows), left, above, (left + above) // 2, _paeth(left, above, corner)]
    data = b"".join(
        bytes([i % 5]) + ((rows[i] - predictions[i % 5][i]) % 256).astype(np.uint8).tobytes() for i in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOURS[channels], 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    guess = left + above - corner
    distances = np.stack([abs(guess - one) for one in (left, above, corner)])
    return np.choose(distances.argmin(0), [left, above, corner])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
