"""Small generated files of OMBRIA in the true layout."""

from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = [f"{i:04d}" for i in range(2, 22)]
TEST = ["0100", "0101", "0102"]


def write(root: Path, ids: dict[str, list[str]] | None = None, side: int = 16, listed: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for folder, tiles in ({"train": TRAIN, "test": TEST} if ids is None else ids).items():
        for tile in tiles:
            for sensor, channels in (("S1", ()), ("S2", (3,))):
                for date in ("BEFORE", "AFTER"):
                    save(root, sensor, folder, date, tile, rng.integers(0, 256, (side, side, *channels)))
            save(root, "S1", folder, "MASK", tile, 255 * rng.integers(0, 2, (side, side)))
        if listed:
            (root / f"{folder}_ids.txt").write_text("\n".join(tiles) + "\n")
    return root


def save(root: Path, sensor: str, folder: str, date: str, tile: str, values: np.ndarray) -> Path:
    path = root / f"Ombria{sensor}" / folder / date / f"{sensor}_{date.lower()}_{tile}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path
