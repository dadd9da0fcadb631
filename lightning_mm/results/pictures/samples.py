"""The grid of a segmentation: for a few samples the inputs, the truth, and the prediction of every method.

Shapes: K samples, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.modality_names import ModalityNames
from lightning_mm.results.heat_map import INK, LINE
from lightning_mm.results.pictures.examples import IGNORED, Examples
from lightning_mm.results.rows import ADAPTED, ZERO_FILL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE, GAP = 128, 6
"""Pixels: a picture, and the space between two."""
SHOWN = 8
"""How many methods are drawn: of more, the first ones and the last."""
ABSENT = np.array([236, 239, 241], np.uint8)
"""Colour of an absent modality."""
PALETTE = np.array(
    [
        [43, 53, 62], [0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0],
        [240, 228, 66], [148, 103, 189], [140, 86, 75], [127, 127, 127], [23, 190, 207], [188, 189, 34],
        [255, 152, 150], [152, 223, 138], [197, 176, 213], [196, 156, 148], [247, 182, 210], [174, 199, 232],
        [219, 219, 141],
    ],
    np.uint8,
)  # fmt: skip
"""Colours of classes, safe for the colour-blind up to eight (Okabe and Ito); of more than 20 they repeat."""
NAMED = {ZERO_FILL: "without adapter", ADAPTED: "with adapter"}


def segmentation_picture(examples: Examples, combination: str, modalities: Sequence[str]) -> Figure:
    """Draw the samples of a combination, one a row; absent modalities are empty.

    Args:
        examples: What is drawn.
        combination: The available modalities.
        modalities: Names in the fixed order.
    """
    from matplotlib.figure import Figure

    present = set(ModalityNames(modalities).parse(combination))
    inputs = [name for name in modalities if name in examples.inputs]
    methods = [method for method in examples.methods if (method, combination) in examples.predictions]
    methods = methods if len(methods) <= SHOWN else [*methods[: SHOWN - 1], methods[-1]]
    count = len(examples.index)
    empty = np.broadcast_to(ABSENT, (count, TILE, TILE, 3))
    columns = [(name, fit(examples.inputs[name]) if name in present else empty) for name in inputs]
    columns.append(("truth", fit(coloured(examples.truth))))
    for method in methods:
        columns.append((method, fit(coloured(examples.predictions[method, combination]))))
    image = np.full((count * (TILE + GAP) - GAP, len(columns) * (TILE + GAP) - GAP, 3), 255, np.uint8)
    for place, (_, tiles) in enumerate(columns):
        for row, tile in enumerate(tiles):
            top, left = row * (TILE + GAP), place * (TILE + GAP)
            image[top : top + TILE, left : left + TILE] = tile

    height, width = image.shape[0] + 92, max(image.shape[1] + 20, 300)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    figure.figimage(image, 10, 32, origin="upper")
    _write(figure, 10 / width, 1 - 8 / height, combination, fontsize=9, fontweight="bold", color=INK, va="top")
    for place, (name, _) in enumerate(columns):
        x = (10 + place * (TILE + GAP)) / width
        _write(figure, x, 1 - 30 / height, _cut(name), fontsize=7.5, color=INK, va="top")
        note = (
            NAMED.get(name, "")
            if place > len(inputs)
            else ("missing" if name in inputs and name not in present else "")
        )
        figure.text(x, 1 - 44 / height, note, fontsize=6.5, color=LINE, va="top")
    _legend(figure, examples, width, height)
    return figure


def coloured(labels: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Labels ``[K, H, W]`` as colours ``[K, H, W, 3]``; pixels that do not count are white."""
    found = PALETTE[labels.astype(np.int64) % len(PALETTE)]
    found[labels == IGNORED] = 255
    return found


def fit(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures ``[K, H, W, 3]`` in tiles, by the nearest pixel, with bands in ``ABSENT`` if they are not square."""
    count, height, width = pictures.shape[:3]
    scale = TILE / max(height, width)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    rows = np.minimum((np.arange(tall) + 0.5) * height / tall, height - 1).astype(np.int64)
    columns = np.minimum((np.arange(wide) + 0.5) * width / wide, width - 1).astype(np.int64)
    tiles = np.empty((count, TILE, TILE, 3), np.uint8)
    tiles[:] = ABSENT
    top, left = (TILE - tall) // 2, (TILE - wide) // 2
    tiles[:, top : top + tall, left : left + wide] = pictures[:, rows][:, :, columns]
    return tiles


def _legend(figure: Figure, examples: Examples, width: int, height: int) -> None:
    """The names of the classes that are in truth or predictions, as many as fit in a line."""
    seen = np.unique(np.concatenate([np.unique(one) for one in (examples.truth, *examples.predictions.values())]))
    x = 10.0
    for label in seen[seen >= 0]:
        name = examples.class_names[label] if label < len(examples.class_names) else str(label)
        needed = 20 + 6 * len(name)
        if x + needed > width:
            break
        colour = tuple(float(part) / 255 for part in PALETTE[label % len(PALETTE)])
        figure.text(x / width, 10 / height, "■", fontsize=9, color=colour, va="bottom")
        _write(figure, (x + 12) / width, 10 / height, name, fontsize=7.5, color=INK, va="bottom")
        x += needed


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    figure.text(x, y, text, parse_math=False, **style)


def _cut(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"
