"""Small generated files of MFNet in its two layouts in the true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.image_files import save

TRAIN = [f"{i:05d}{'DN'[i % 2]}" for i in range(1, 25)]
VAL = ["00101D", "00102N"]
TEST = ["00201D", "00202N", "00203D"]


def write(root: Path, stacked: bool = False, val: bool = False, height: int = 12, width: int = 16) -> None:
    """``rgb`` and ``ther``, or with ``stacked`` the four channels of ``images``; a list for ``val`` if wanted."""
    rng = np.random.default_rng(0)
    lists = {"train": TRAIN, "test": TEST, **({"val": VAL} if val else {})}
    for split, names in lists.items():
        for name in names:
            values = rng.integers(0, 256, (height, width, 4)).astype(np.uint8)
            if stacked:
                save(root / "images" / f"{name}.png", values)
            else:
                save(root / "rgb" / f"{name}.jpg", values[..., :3])
                save(root / "ther" / f"{name}.jpg", values[..., 3])
            save(root / "labels" / f"{name}.png", rng.integers(0, 9, (height, width)))
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
