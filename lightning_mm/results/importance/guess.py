"""The score of a network that sees nothing: it always guesses the most frequent label, or the median."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.results.per_sample.cells import Cell, cells_of
from lightning_mm.results.per_sample.choose import find_metric, labels_of
from lightning_mm.results.per_sample.classification import has_classes, has_vqa_score
from lightning_mm.results.per_sample.metric import Statistics
from lightning_mm.results.per_sample.regression import has_numbers
from lightning_mm.results.per_sample.resample import values_of
from lightning_mm.results.per_sample.segmentation import has_confusion
from lightning_mm.results.result import SweepResult

OF_LABELS = ("accuracy", "acc2")
"""Metrics that are the share of the most frequent label for such a network."""


def value_of_guessing(result: SweepResult, metric: str, whole: SweepResult | None = None) -> tuple[float, str] | None:
    """The metric of a network that always gives the same answer.

    Args:
        result: A result with per-sample statistics.
        metric: Which metric.
        whole: What the answer is chosen on; by default the result itself, which may be a group of its samples.

    Returns:
        The value and what was guessed; ``None`` if statistics are missing or do not suffice.
    """
    found = values_of_guessing(result, metric, whole)
    if found is None or np.isnan(found[0].get(metric, np.nan)):
        return None
    what = "share of the most frequent label" if metric in OF_LABELS and whole is None else found[1]
    return found[0][metric], what


def values_of_guessing(
    result: SweepResult, metric: str, whole: SweepResult | None = None
) -> tuple[dict[str, float], str] | None:
    """As :func:`value_of_guessing`, of a metric that may have one value per class; NaN where it is not defined."""
    largest = _largest(result)
    of_all = largest if whole is None else _largest(whole)
    if largest is None or of_all is None:
        return None
    guess = _guessing(of_all.statistics, largest.statistics)
    if guess is None:
        return None
    statistics, what = guess
    try:
        values = values_of(
            Cell("", largest.combination, 0, largest.rows, statistics),
            metric,
            find_metric(metric, statistics),
            labels_of(whole or result, cells_of(whole or result)),
        )
    except LightningMMError:
        return None
    return {name: float(one[0]) for name, one in values.items()}, what


def _largest(result: SweepResult) -> Cell | None:
    """The cell with the most samples."""
    cells = cells_of(result)
    return max(cells, key=lambda cell: len(cell.rows)) if cells else None


def _guessing(whole: Statistics, own: Statistics) -> tuple[dict[str, NDArray[Any]], str] | None:
    """Statistics of a network that guesses by the labels of ``whole`` for the samples of ``own``."""
    if has_confusion(whole):
        confusion = own["confusion"]
        most = int(whole["confusion"].sum(axis=(0, 2), dtype=np.int64).argmax())
        guessed = np.zeros(confusion.shape, dtype=np.int64)
        guessed[:, :, most] = confusion.sum(axis=2, dtype=np.int64)
        return {"confusion": guessed}, "always the most frequent class"
    if has_classes(whole):
        return _guess_class(whole, own["target"].astype(np.int64)), "always the most frequent label"
    if has_numbers(whole) and len(whole["target"]):
        median = np.float32(np.median(whole["target"]))
        target = own["target"].astype(np.float32)
        return {"prediction": np.full(len(target), median), "target": target}, "always the median"
    return None


def one_answer_is_right(statistics: Statistics) -> bool:
    """Whether the values of answers to questions say that exactly one is right, with the value one, as far as seen."""
    if not has_vqa_score(statistics):
        return False
    hit = statistics["prediction"].astype(np.int64) == statistics["target"].astype(np.int64)
    return bool(hit.any()) and np.array_equal(statistics["vqa_score"], hit)


def _guess_class(whole: Statistics, target: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The most frequent label, with the shares of all labels as probabilities."""
    labels = whole["target"].astype(np.int64)
    number = 1 + int(max(labels.max(initial=0), target.max(initial=0), whole["prediction"].max(initial=0)))
    shares = np.bincount(labels, minlength=number) / max(1, len(labels))
    found: dict[str, NDArray[Any]] = {"prediction": np.full(len(target), int(shares.argmax())), "target": target}
    if "score" in whole:
        found["score"] = np.full(len(target), shares[1] if number > 1 else 0.0, np.float32)
    elif one_answer_is_right(whole):
        found["vqa_score"] = (found["prediction"] == target).astype(np.float32)
    elif "confidence" in whole:
        found["confidence"] = np.full(len(target), shares.max(), np.float32)
        found["target_probability"] = shares[target].astype(np.float32)
        found["brier"] = ((shares - np.eye(number)[target]) ** 2).sum(axis=1).astype(np.float32)
    return found
