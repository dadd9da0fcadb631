"""Pictures of predictions, which a sweep has written next to its table, made small and put into the page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from lightning_mm.report.downloads import data_uri
from lightning_mm.results.pictures import find_pictures
from lightning_mm.results.result import SweepResult

TITLES = {
    "segmentation": "Inputs, truth and predictions",
    "confusion": "Confusion matrices",
    "values": "Predicted against true values",
}
"""Kind of a picture to what it shows."""
WIDEST = 1100
"""Pixels; wider ones are made smaller."""
COLOURS = 128
LARGEST = 4_000_000
"""Bytes of all pictures of a sweep in the page; further ones are left out."""


@dataclass(frozen=True)
class Picture:
    """A picture of the predictions for one combination.

    Args:
        combination: The available modalities.
        place: Position of the combination in the data of the page.
        uri: A ``data:`` address.
        width: In pixels.
        height: In pixels.
    """

    combination: str
    place: int
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Pictures:
    """All pictures of one kind, the full combination first, then by the number of missing modalities.

    Args:
        kind: One of :data:`TITLES`.
        title: What they show.
        shown: Those in the page.
        left_out: How many are left out since the page would become too large.
    """

    kind: str
    title: str
    shown: list[Picture]
    left_out: int


def pictures(folder: Path, result: SweepResult) -> list[Pictures]:
    """Read the pictures in the folder of a sweep; those that cannot be read are left out."""
    order = {name: place for place, name in enumerate(result.combinations)}
    there = find_pictures(folder, result.modalities)
    found = []
    space = LARGEST
    for kind, title in TITLES.items():
        paths = {one.combination: one.path for one in there if one.kind == kind and one.combination in order}
        shown: list[Picture] = []
        left_out = 0
        for name in sorted(paths, key=lambda name: -order[name]):
            made = None if space <= 0 else _embedded(paths[name])
            if made is None:
                left_out += space <= 0
                continue
            uri, size = made
            space -= len(uri)
            if space < 0 and shown:
                left_out += 1
                continue
            shown.append(Picture(name, order[name], uri, *size))
        if shown:
            found.append(Pictures(kind, title, shown, left_out))
    return found


def _embedded(path: Path) -> tuple[str, tuple[int, int]] | None:
    """A picture as an address and its size, with few colours and not too wide; ``None`` if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image: Image.Image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    size = image.size
    if image.width > WIDEST:
        size = (WIDEST, max(1, round(image.height * WIDEST / image.width)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return data_uri(file.getvalue(), "image/png"), size
