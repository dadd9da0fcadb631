"""Small generated files of CMU-MOSI and CMU-MOSEI in both layouts, and of IEMOCAP, in the true layout."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from lightning_mm.data import CmuMosi, Iemocap

COUNTS = {"train": 12, "valid": 6, "test": 7}
STEPS = {"text": 5, "audio": 7, "vision": 6}


def contents(
    kind: type[CmuMosi] = CmuMosi, layout: Any = "mult", aligned: bool = True, seed: int = 0
) -> dict[str, Any]:
    """All splits; sentiment shows in every feature; the first steps are padding in ``mult``, the last in ``mmsa``."""
    rng = np.random.default_rng(seed)
    return {split: part_of(kind, layout, aligned, count, rng) for split, count in COUNTS.items()}


def part_of(kind: type[CmuMosi], layout: Any, aligned: bool, count: int, rng: np.random.Generator) -> dict[str, Any]:
    labels = np.round(rng.uniform(-3, 3, count), 1)
    labels[0] = 0.0
    part: dict[str, Any] = {}
    lengths = {}
    for name, width in kind.widths[layout].items():
        steps = 5 if aligned else STEPS[name]
        lengths[name] = rng.integers(2, steps + 1, count)
        values = labels[:, None, None] + rng.normal(0, 0.5, (count, steps, width))
        order = np.arange(steps)[::-1] if layout == "mult" else np.arange(steps)
        values[order[None] >= lengths[name][:, None]] = 0.0
        part[name] = values.astype(np.float64 if name == "text" else np.float32)
    part["audio"][1, -1, 2] = -np.inf
    if issubclass(kind, Iemocap):  # absent and present of four emotions, and no names
        there = np.stack([labels > bound for bound in (0.5, -0.5, 1.5, 0.0)], axis=1)
        return {**part, "labels": np.stack([~there, there], axis=2).astype(np.float64)}
    if layout == "mult":
        ids = [[f"video{row}".encode(), b"0.5", b"1.5"] for row in range(count)]
        return {**part, "labels": labels.reshape(-1, 1, 1).astype(np.float32), "id": np.array(ids, dtype=object)}
    mask = np.arange(part["text"].shape[1]) < lengths["text"][:, None]
    part["text_bert"] = np.stack([mask * 101, mask, mask * 0], axis=1).astype(np.float32)
    part |= {"raw_text": np.array(["well"] * count), "id": [f"video{row}$_$1" for row in range(count)]}
    part |= {"regression_labels": labels.astype(np.float32), "classification_labels": labels > 0}
    if not aligned:
        part |= {f"{name}_lengths": lengths[name].tolist() for name in ("audio", "vision")}
    return part


def write(
    root: Path,
    content: Any = None,
    kind: type[CmuMosi] = CmuMosi,
    layout: Any = "mult",
    aligned: bool = True,
    protocol: int | None = None,
) -> Path:
    """The file of one layout, in the folder of the data set."""
    root.mkdir(parents=True, exist_ok=True)
    content = contents(kind, layout, aligned) if content is None else content
    (root / kind.files[layout][0 if aligned else 1]).write_bytes(pickle.dumps(content, protocol))
    return root
