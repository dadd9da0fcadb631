"""Small generated files of NTU RGB+D in the true layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Lines = list[tuple[str, int, int]]
SHORT = "S001C001P001R002A003_rgb"
"""A recording of 16 frames, which is listed and left out."""


def name_of(subject: int, action: int, camera: int = 1) -> str:
    return f"S001C{camera:03d}P{subject:03d}R001A{action:03d}_rgb"


def all_lists() -> dict[str, Lines]:
    """Four subjects do two actions before three cameras; CS tests on subject 3, CV on camera 1."""
    every = [(s, a, c) for s in (1, 2, 3, 4) for a in (1, 60) for c in (1, 2, 3)]
    lines = {key: (name_of(*key), 17 + key[0], key[1] - 1) for key in every}
    return {
        "@CS/train": [(SHORT, 16, 2), *(line for key, line in lines.items() if key[0] != 3)],
        "@CS/valid": [line for key, line in lines.items() if key[0] == 3],
        "@CV/train": [line for key, line in lines.items() if key[2] != 1],
        "@CV/valid": [line for key, line in lines.items() if key[2] == 1],
    }


def write(root: Path, lists: Mapping[str, Lines] | None = None, side: int = 18) -> None:
    """Frames whose first pixels tell their number; 16-bit depth with a background of zero."""
    lists = all_lists() if lists is None else lists
    rng = np.random.default_rng(0)
    lengths: dict[str, int] = {}
    for place, lines in lists.items():
        path = root / "dataset_splits" / f"{place}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name} {length} {label}\n" for name, length, label in lines))
        lengths |= {name: length for name, length, _ in lines if name != SHORT}
    for name, length in lengths.items():
        for frame in range(1, length + 1):
            colour = np.full((side, side * 4 // 3, 3), 10 * frame, dtype=np.uint8)
            colour[side // 2 :] = rng.integers(0, 256, 3)
            save(root / "ImagesResize" / name / f"{frame:06d}.jpg", colour)
            depth = rng.integers(500, 8000, (side, side * 5 // 4)).astype(np.uint16)
            depth[: side // 3] = 0
            save(root / "nturgb+d_depth_masked" / name.removesuffix("_rgb") / f"MDepth-{frame:08d}.png", depth)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path
