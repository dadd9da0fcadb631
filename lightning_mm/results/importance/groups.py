"""Importance of modalities for each class, and for groups of samples that the user names."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.results.importance.guess import value_of_guessing, values_of_guessing
from lightning_mm.results.importance.shapley import Importance, importance
from lightning_mm.results.per_sample.cells import require_cells
from lightning_mm.results.per_sample.choose import find_metric, labels_of
from lightning_mm.results.per_sample.classification import has_classes
from lightning_mm.results.per_sample.paired import paired_replicates
from lightning_mm.results.per_sample.resample import resampled, values_of
from lightning_mm.results.per_sample.rescore import rescore, restricted
from lightning_mm.results.per_sample.segmentation import has_confusion
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import SweepRow

INDEX = "index"
"""Column of a file of groups with the positions of the samples in the data set."""
MOST = 200
"""The most groups of one file; more are taken for a column of other values."""


@dataclass(frozen=True)
class Group:
    """Importance of modalities for a class or a group of samples.

    Args:
        name: The class, or the value of the group.
        n: Number of samples; 0 if it does not apply, as for classes of pixels.
        importance: What each modality adds there.
    """

    name: str
    n: int
    importance: Importance


def importance_per_class(
    result: SweepResult, methods: Sequence[str], empty: float | None = None, replicates: int = 1000
) -> dict[str, list[Group]]:
    """How much each modality adds for each class: to its recall, or to its IoU in a segmentation.

    Args:
        result: A result with per-sample statistics.
        methods: Which methods.
        empty: Value without any modality, the same for all classes; by default that of always guessing the most
            frequent class, whose recall is 1, and 0 for all others.
        replicates: Paired resamples for intervals; 0 for none.

    Returns:
        Method to its classes, in their order; classes without a sample are left out.

    Raises:
        LightningMMError: If statistics are missing, the task has no classes, or a method lacks combinations.
    """
    cells = require_cells(result, methods)
    first = cells[0].statistics
    begin = "recall" if has_classes(first) else "iou" if has_confusion(first) else ""
    if not begin:
        raise LightningMMError(
            f"importance per class needs classes; the stored statistics are {', '.join(first)}: those of numbers. Make "
            "groups of samples, e.g. by sign, in a CSV (--groups FILE)"
        )
    family = f"{begin}_per_class"
    scored = rescore(result, [family], replicates=0)
    bootstrap = resampled(result, family, methods, replicates=replicates) if replicates else None
    # in the order of the labels, which rows of a table need not have
    names = list(values_of(cells[0], family, find_metric(family, first), labels_of(result, require_cells(result))))
    counts = _counts(result, methods) if begin == "recall" else {}
    guess = values_of_guessing(scored, family) if empty is None else None
    guessed = dict.fromkeys(names, empty) if empty is not None else guess[0] if guess else {}
    of_class: dict[str, list[SweepRow]] = {}
    for row in scored.rows:
        of_class.setdefault(row.metric, []).append(row)
    found: dict[str, list[Group]] = {method: [] for method in methods}
    for place, name in enumerate(names):
        nothing = guessed.get(name, math.nan)
        if math.isnan(nothing):
            continue  # no sample has this class
        part = replace(scored, rows=of_class.get(name, []))
        for method in methods:
            one = importance(part, method, name, nothing, bootstrap)
            label = name.removeprefix(f"{begin}_")
            found[method].append(Group(label, counts.get(place, 0), one))
    return found


def importance_per_group(
    result: SweepResult,
    groups: Mapping[int, str],
    methods: Sequence[str],
    metric: str | None = None,
    empty: float | None = None,
    replicates: int = 1000,
) -> dict[str, list[Group]]:
    """How much each modality adds for groups of samples.

    Args:
        result: A result with per-sample statistics.
        groups: ``index`` of a sample to its group, see :func:`read_groups`.
        methods: Which methods.
        metric: Which metric; the primary one by default.
        empty: Value without any modality; by default that of always guessing what is most frequent in all samples.
        replicates: Paired resamples of the samples of a group for intervals; 0 for none.

    Returns:
        Method to its groups, in alphabetical order.

    Raises:
        LightningMMError: If statistics are missing or do not suffice, a sample is in no group, or a method lacks
            combinations.
    """
    metric = result.require_metric(metric)
    require_cells(result, methods)
    labels = _labels(result, groups)
    found: dict[str, list[Group]] = {method: [] for method in methods}
    for label in sorted(set(labels)):
        part = restricted(result, labels == label, [metric])
        bootstrap = paired_replicates(part, metric, replicates)
        value = empty
        if value is None:
            guessed = value_of_guessing(part, metric, result)
            value = None if guessed is None else guessed[0]
        for method in methods:
            one = importance(part, method, metric, value, bootstrap)
            found[method].append(Group(label, len(part.samples["index"]), one))
    return found


def read_groups(path: str | Path, column: str | None = None) -> dict[int, str]:
    """Read which group each sample is in.

    Args:
        path: A CSV with a column ``index``, the position of a sample in the data set as in ``sweep_samples.npz``, and
            one column per grouping.
        column: Which grouping; may be left out if there is one.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it has another form; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(f"no groups at {path}: expected a CSV with columns {INDEX} and a name of yours")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lines = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise LightningMMError(
            f"{path} is no CSV in UTF-8 ({error}); write columns {INDEX} and a name of yours"
        ) from error
    names = [name for name in reader.fieldnames or [] if name != INDEX]
    if INDEX not in (reader.fieldnames or []) or not names:
        raise LightningMMError(f"{path}: expected columns {INDEX} and a name of yours, got {reader.fieldnames}")
    if column is None and len(names) > 1:
        raise LightningMMError(f"{path} has several groupings: {', '.join(names)}; choose one with --group_by")
    chosen = column or names[0]
    if chosen not in names:
        raise LightningMMError(f"{path}: expected a column among {', '.join(names)}, got {chosen!r}")
    found: dict[int, str] = {}
    for number, line in enumerate(lines, start=2):
        index, label = (line[INDEX] or "").strip(), (line[chosen] or "").strip()
        if not index.isascii() or not index.isdigit() or not label:
            raise LightningMMError(
                f"{path}, line {number}: expected a whole number and a group, got {index!r}, {label!r}"
            )
        if found.setdefault(int(index), label) != label:
            raise LightningMMError(f"{path}, line {number}: sample {index} is in two groups")
    if len(set(found.values())) > MOST:
        raise LightningMMError(f"{path}: {chosen} has {len(set(found.values()))} groups, more than {MOST}; make fewer")
    return found


def _labels(result: SweepResult, groups: Mapping[int, str]) -> NDArray[Any]:
    """The group of every sample, ``[N]``."""
    index = result.samples["index"].astype(np.int64).tolist()
    missing = [one for one in index if one not in groups]
    if missing:
        raise LightningMMError(
            f"{len(missing)} of {len(index)} samples are in no group, the first of them index {missing[0]}; give every "
            "sample of the sweep one"
        )
    return np.array([groups[one] for one in index])


def _counts(result: SweepResult, methods: Sequence[str]) -> dict[int, int]:
    """Class to number of samples, in the cell with the most."""
    largest = max(require_cells(result, methods), key=lambda cell: len(cell.rows))
    return dict(enumerate(np.bincount(largest.statistics["target"].astype(np.int64)).tolist()))
