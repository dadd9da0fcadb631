"""Pictures of predictions, which a sweep has written next to its table, made small and put into the page."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

from lightning_mm.modality_names import SEPARATOR
from lightning_mm.report.downloads import data_uri
from lightning_mm.results.result import SweepResult

FOLDER = "pictures"
KINDS = {
    "segmentation": "Inputs, truth and predictions",
    "confusion": "Confusion matrices",
    "values": "Predicted against true values",
}
"""Begin of the name of a file, ``<kind>_<combination>.png``, to its title."""
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
        kind: One of :data:`KINDS`.
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
    found = []
    space = LARGEST
    for kind, title in KINDS.items():
        paths = {}
        for path in sorted((folder / FOLDER).glob(f"{kind}_*.png")):
            name = _combination(path.stem.removeprefix(f"{kind}_"), result.modalities)
            if name in order:
                paths[name] = path
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


def _combination(name: str, modalities: list[str]) -> str:
    """The combination in the name of a file; long ones are written with the numbers of modalities, ``m1+m3``."""
    parts = name.split(SEPARATOR)
    numbers = [int(part[1:]) for part in parts if re.fullmatch(r"m\d{1,4}", part)]
    if set(parts) <= set(modalities) or len(numbers) < len(parts) or not all(0 < n <= len(modalities) for n in numbers):
        return name
    return SEPARATOR.join(modalities[number - 1] for number in numbers)


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
