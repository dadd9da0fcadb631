"""Small generated files of NYU Depth v2 in the true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.image_files import save

TRAIN = [str(i) for i in range(40, 64)]
TEST = ["0", "30", "31"]


def write(root: Path, height: int = 12, width: int = 16) -> None:
    rng = np.random.default_rng(0)
    for split, names in {"train": TRAIN, "test": TEST}.items():
        for name in names:
            for folder in ("RGB", "HHA"):
                save(root / folder / f"{name}.jpg", rng.integers(0, 256, (height, width, 3)))
            save(root / "Label" / f"{name}.png", rng.integers(0, 41, (height, width)))
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")
