"""Find a metric by its name, and the classes of a task that its statistics do not name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError, UsageError
from lightning_mm.results.per_sample import classification, regression, segmentation
from lightning_mm.results.per_sample.cells import SWEEP_AGAIN, Cell, widened
from lightning_mm.results.per_sample.metric import AbsentClasses, Labels, Metric, Statistics, Values
from lightning_mm.results.per_sample.weighted import Weights
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robustness import Direction

METRICS: tuple[Metric, ...] = (*classification.METRICS, *segmentation.METRICS, *regression.METRICS)
OwnMetric = Callable[[dict[str, NDArray[Any]]], float]
"""Statistics of some samples, name to ``[n, ...]``, to one number."""
CLOSE = 1e-5
"""How far a recomputed figure may be from the stored one, absolute below 1 and relative above."""


def find_metric(name: str, statistics: Statistics) -> Metric:
    """Find a metric of this name that can be computed from these statistics.

    Args:
        name: Such as ``macro_f1``, ``recall_per_class`` (a value per class) or ``iou_flood`` (that of one class).
        statistics: Those of one cell.

    Raises:
        LightningMMError: If there is no such metric, or the statistics do not suffice; the message lists what can be
            computed and names the way out.
    """
    for metric in METRICS:
        if name in metric.names and metric.fits(statistics):
            return metric
    for metric in METRICS:
        if metric.per_class and metric.fits(statistics) and name.startswith(f"{metric.name}_"):
            one = partial(_one_class, metric, name)
            return Metric(name, metric.fits, metric.needs, one, metric.direction)
    needs = list(dict.fromkeys(metric.needs for metric in METRICS if name in metric.names))
    stored = ", ".join(statistics) or "none"
    if needs:
        raise LightningMMError(
            f"{name} needs {' or '.join(needs)}; stored are {stored}; {SWEEP_AGAIN}, with a task that returns them "
            "from sample_statistics"
        )
    raise LightningMMError(
        f"no metric {name!r}; expected one of {', '.join(computable(statistics)) or 'none'}, which the stored "
        f"statistics ({stored}) suffice for, or a function of yours as module.function"
    )


def computable(statistics: Statistics) -> list[str]:
    """Names of the metrics that these statistics suffice for."""
    return list(dict.fromkeys(name for metric in METRICS if metric.fits(statistics) for name in metric.names))


def _one_class(metric: Metric, name: str, statistics: Statistics, weights: Weights, labels: Labels) -> Values:
    found = metric.compute(statistics, weights, labels)
    assert isinstance(found, dict)
    if name not in found:
        raise LightningMMError(f"no metric {name!r}; this sweep has {', '.join(found)}")
    return {name: found[name]}


def own_metric(function: OwnMetric, name: str | None = None, direction: Direction = "max") -> Metric:
    """Make a metric of a function of the user's, which is called once per resample.

    Args:
        function: Takes the statistics of some samples, name to ``[n, ...]``, and returns a number.
        name: Its name in tables; by default that of the function.
        direction: Whether more or less is better.

    The metric raises a LightningMMError if the function fails or returns no number.
    """

    def compute(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
        values = np.full(len(weights), np.nan)
        for place, drawn in enumerate(weights):
            if drawn.any():
                picked = np.repeat(np.arange(len(drawn)), drawn.astype(np.int64))
                samples = {key: widened(one[picked]) for key, one in statistics.items()}
                try:
                    values[place] = function(samples)
                except Exception as error:  # of any kind, as the function is the user's
                    raise LightningMMError(
                        f"metric {named!r} failed on {drawn.sum():.0f} samples ({type(error).__name__}: {error}); "
                        f"expected a function that takes {{statistic: array}} of {', '.join(statistics)} and returns a "
                        "number"
                    ) from error
        return values

    named = name or str(getattr(function, "__name__", type(function).__name__))
    return Metric(named, bool, "any statistics", compute, direction)


def import_metric(path: str, direction: Direction = "max") -> Metric:
    """Import ``module.function``.

    Raises:
        UsageError: If it cannot be imported or is no function.
    """
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"metric {path!r} cannot be imported ({error}); expected module.function of a module in this folder or "
            "installed"
        ) from error
    if not callable(function):
        raise UsageError(f"metric {path!r}: expected a function of the statistics, got a {type(function).__name__}")
    return own_metric(function, name, direction)


def labels_of(result: SweepResult, cells: Sequence[Cell]) -> Labels:
    """Read the classes of a task from the configuration, or else infer them from the stored figures.

    Results of a study keep no configuration of the task. Names of classes are then those of ``iou_<class>``, and the
    label that is left out and the rule for absent classes are those that give the stored ``miou``.

    Raises:
        LightningMMError: If nothing gives the stored ``miou``.
    """
    settings = _task_settings(result.config)
    given = settings.get("class_names") or _iou_classes(result)
    numbers = [
        classification.number_of_classes(c.statistics) for c in cells if classification.has_classes(c.statistics)
    ]
    labels = Labels(tuple(map(str, given)), settings.get("ignore_index"), settings.get("absent_classes") or "skip")
    labels = replace(labels, number=max(numbers, default=0))
    dense = [cell for cell in cells if segmentation.has_confusion(cell.statistics)]
    if not dense or "miou" not in result.metrics:
        return labels
    rules: list[AbsentClasses] = [labels.absent_classes] if "absent_classes" in settings else ["skip", "zero"]
    number = dense[0].statistics["confusion"].shape[1]
    ignored = [labels.ignored] if "ignore_index" in settings else [None, *range(number)]
    for one in (replace(labels, ignored=label, absent_classes=rule) for label in ignored for rule in rules):
        if all(_agrees(result, cell, one) for cell in dense):
            return one
    raise LightningMMError(
        f"the stored confusion matrices do not give the stored miou of {dense[0].method!r}, whatever label is ignored; "
        f"sweep.csv and sweep_samples.npz are of different runs or were edited; {SWEEP_AGAIN}"
    )


def _iou_classes(result: SweepResult) -> list[str]:
    """Classes of ``iou_<class>`` in the order of the rows; ``metrics`` has the primary one first, whichever it is."""
    return list(dict.fromkeys(row.metric[4:] for row in result.rows if row.metric.startswith("iou_")))


def _agrees(result: SweepResult, cell: Cell, labels: Labels) -> bool:
    found = find_metric("miou", cell.statistics).values(cell.statistics, np.ones((1, len(cell.rows))), labels, "miou")
    stored = [row.value for row in result.select(cell.method, cell.combination, "miou") if row.seed == cell.seed]
    return all(same(value, float(found["miou"][0])) for value in stored)


def same(stored: float, found: float) -> bool:
    """Whether a recomputed figure is the stored one."""
    if np.isnan(stored) or np.isnan(found):
        return bool(np.isnan(stored) and np.isnan(found))
    return bool(abs(stored - found) <= CLOSE * max(1.0, abs(stored)))


def _task_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the task in the configuration of a result, or of one that it was merged from."""
    model = config.get("model")
    if isinstance(model, Mapping):
        settings = model.get("init_args")
        return settings if isinstance(settings, Mapping) else {}
    for part in config.get("merged") or ():
        settings = _task_settings(part) if isinstance(part, Mapping) else {}
        if settings:
            return settings
    return {}
