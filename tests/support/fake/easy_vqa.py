"""Small generated files of EasyVqa in the true layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_mm.data import EasyVqa

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def questions(images: int) -> list[list[object]]:
    """Three questions about every image, whose colour is that of its number."""
    names = list(COLOURS)
    found: list[list[object]] = []
    for image in range(images):
        colour, other = names[image % 3], names[(image + 1) % 3]
        found += [
            ["what color is the shape?", colour, image],
            [f"is there a {other} shape?", "no", image],
            [f"does the image contain a {colour} shape?", "yes", image],
        ]
    return found


def write(root: Path) -> Path:
    for part, images in {"train": 36, "test": 6}.items():
        folder = root / part / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for image in range(images):
            pixels = np.full((64, 64, 3), 250, np.uint8)
            pixels[16:40, 20:44] = list(COLOURS.values())[image % 3]
            Image.fromarray(pixels).save(folder / f"{image}.png")
        (root / part / "questions.json").write_text(json.dumps(questions(images)))
    (root / "answers.txt").write_text("\n".join(EasyVqa.class_names) + "\n")
    return root
