"""Small generated files of Food-101 in the true layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("apple_pie", "pho", "red_velvet_cake")
WORDS = ("apple", "pie", "##s", "recipe", "pho", "soup", "red", "velvet", "cake", "home", "a", "the", "##e")
VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
COUNTS = {"train": 12, "val": 6, "test": 6}


def write(root: Path, counts: dict[str, int] = COUNTS, side: int = 40) -> dict[str, list[str]]:
    """Samples of all classes in turn, some landscape, some portrait; the class shows in the colour and in the title."""
    rng = np.random.default_rng(0)
    splits: dict[str, list[str]] = {}
    texts: dict[str, Any] = {}
    number = 0
    for split, count in counts.items():
        splits[split] = []
        for index in range(count):
            label = CLASSES[index % len(CLASSES)]
            name = f"{label}_{number}.jpg"
            number += 1
            size = (side, 2 * side) if index % 2 else (side + side // 2, side)
            pixels = np.full((*size, 3), 40, dtype=np.uint8)
            pixels[..., index % 3] = rng.integers(160, 200)
            save(root, split, name, Image.fromarray(pixels))
            splits[split].append(name)
            title = f"The {label.replace('_', ' ')} Recipe"
            texts[name] = title if index % 2 else ["  ", title, "another"]
    (root / "class_idx.json").write_text(json.dumps({label: i for i, label in enumerate(CLASSES)}))
    (root / "text.json").write_text(json.dumps(texts))
    (root / "split.json").write_text(json.dumps(splits))
    (root / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return splits


def path_of(root: Path, split: str, name: str) -> Path:
    return root / "images" / ("test" if split == "test" else "train") / name.rsplit("_", 1)[0] / name


def save(root: Path, split: str, name: str, image: Image.Image) -> None:
    path = path_of(root, split, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG" if image.mode in ("RGB", "L", "CMYK") else "PNG", quality=95)
