"""Draws the pictures of a sweep and finds them again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_mm.files import write_atomically
from lightning_mm.modality_names import SEPARATOR, ModalityNames
from lightning_mm.results.pictures.examples import Examples
from lightning_mm.results.pictures.labels import confusion_picture, label_pairs, values_picture
from lightning_mm.results.pictures.samples import segmentation_picture
from lightning_mm.results.result import SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "pictures"
"""Folder of the pictures in that of a sweep."""
KINDS = ("segmentation", "confusion", "values")
MOST = 64
"""How many combinations are drawn: of more, those of one modality, those that lack one, the full one, and others."""
MOST_CLASSES = 1000
"""Up to this many classes there is a confusion matrix."""
DRAW_SEED = 0
LONGEST = 150
"""Bytes of a combination in the name of a file."""


@dataclass(frozen=True)
class Picture:
    """A picture of predictions.

    Args:
        kind: One of :data:`KINDS`.
        combination: The available modalities.
        path: Its file.
    """

    kind: str
    combination: str
    path: Path


def write_pictures(result: SweepResult, folder: str | Path, examples: Examples | None = None) -> list[Picture]:
    """Draw the predictions of every combination; of more than :data:`MOST` combinations, some.

    Args:
        result: The sweep; its ``samples`` say what was predicted.
        folder: Of the sweep; the pictures of an earlier sweep in it are removed.
        examples: Inputs, truth and predictions of a few samples, for pictures of segmentation.

    Returns:
        The pictures, by kind and then in the order of the table.
    """
    target = Path(folder) / FOLDER
    examples = examples or Examples()
    written = []
    for kind, combination, figure in _figures(result, examples):
        path = target / f"{kind}_{_in_file_name(combination, result)}.png"
        write_atomically(path, lambda file, figure=figure: figure.savefig(file, format="png"))  # type: ignore[misc]
        written.append(Picture(kind, combination, path))
    for old in find_pictures(folder):
        if old.path not in {one.path for one in written}:
            old.path.unlink()
    return written


def find_pictures(folder: str | Path, modalities: list[str] | None = None) -> list[Picture]:
    """The pictures in the folder of a sweep, by kind and then by number of modalities.

    Args:
        folder: Of the sweep.
        modalities: Names in the fixed order: the order of the pictures, and the names of long combinations.
    """
    pattern = re.compile(rf"({'|'.join(KINDS)})_(.+)\.png")
    found = []
    for path in sorted((Path(folder) / FOLDER).glob("*.png")):
        match = pattern.fullmatch(path.name)
        if match:
            found.append(Picture(match[1], _from_file_name(match[2], modalities), path))
    if modalities is not None:
        names = ModalityNames(modalities)
        known = [one.combination for one in found if set(one.combination.split(SEPARATOR)) <= set(modalities)]
        order = {name: place for place, name in enumerate(names.select(known) if known else ())}
        found.sort(key=lambda one: order.get(one.combination, len(order)))
    else:
        found.sort(key=lambda one: one.combination.count(SEPARATOR))
    return sorted(found, key=lambda one: KINDS.index(one.kind))


def drawn_combinations(result: SweepResult) -> list[str]:
    """The combinations of a sweep that have pictures, in the order of the table."""
    combinations = result.combinations
    if len(combinations) <= MOST:
        return combinations
    drawn = set(ModalityNames(result.modalities).sampled(MOST, DRAW_SEED))
    return [name for name in combinations if name in drawn]


def _figures(result: SweepResult, examples: Examples) -> Iterator[tuple[str, str, Figure]]:
    combinations = drawn_combinations(result)
    for combination in combinations:
        if any(key[1] == combination for key in examples.predictions):
            yield "segmentation", combination, segmentation_picture(examples, combination, result.modalities)
    for combination in combinations:
        pairs = label_pairs(result, combination)
        if not pairs:
            continue
        whole = all(one.dtype.kind in "iub" for pair in pairs.values() for one in pair)
        if not whole:
            yield "values", combination, values_picture(pairs, combination)
        elif max(int(one.max(initial=0)) for pair in pairs.values() for one in pair) < MOST_CLASSES:
            yield "confusion", combination, confusion_picture(pairs, combination, examples.class_names)


def _in_file_name(combination: str, result: SweepResult) -> str:
    """The combination, or for many long names the numbers of its modalities, from 1: ``m1+m3``."""
    if len(combination.encode()) <= LONGEST and re.fullmatch(r"[\w.+\- ]+", combination):
        return combination
    names = result.modalities
    return SEPARATOR.join(f"m{names.index(name) + 1}" for name in combination.split(SEPARATOR))


def _from_file_name(name: str, modalities: list[str] | None) -> str:
    parts = name.split(SEPARATOR)
    if modalities is None or set(parts) <= set(modalities):
        return name
    numbers = [int(part[1:]) for part in parts if re.fullmatch(r"m[0-9]{1,4}", part)]
    if len(numbers) < len(parts) or not all(0 < number <= len(modalities) for number in numbers):
        return name
    return SEPARATOR.join(modalities[number - 1] for number in numbers)
