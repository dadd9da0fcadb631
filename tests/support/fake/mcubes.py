"""Small generated files of MCubeS of 8 or 16 bits in the true layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.image_files import save

SPLITS = {
    "train": ["outscene1208_2_0000000000", "outscene1208_2_0000000150", "outscene1208_3_0000000000"],
    "val": ["outscene1208_4_0000000000"],
    "test": ["outscene1209_1_0000000000", "outscene1209_1_0000000150"],
}
HEIGHT, WIDTH = 16, 192 + 20


def write(root: Path, dtype: type = np.uint16, height: int = HEIGHT, width: int = WIDTH) -> None:
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max + 1
    for split, names in SPLITS.items():
        for name in names:
            save(root / "polL_color" / f"{name}.png", rng.integers(0, top, (height, width, 3)).astype(dtype))
            save(root / "NIR_warped" / f"{name}.png", rng.integers(0, top, (height, width)).astype(dtype))
            for folder in ("polL_aolp_sin", "polL_aolp_cos", "polL_dolp"):
                save(root / folder / f"{name}.npy", rng.normal(size=(height, width)))
            labels = rng.integers(0, 20, (height, width))
            labels[0] = 255
            save(root / "GT" / f"{name}.png", labels)
        listed = root / "list_folder" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(names) + "\n")
