"""Metrics of numbers, sentiments above all, from predictions and labels of samples; without torch.

Conventions are those of :mod:`lightning_mm.tasks.metrics.sentiment`. Shapes: n samples, R resamples.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_mm.results.per_sample.metric import Labels, Metric, Statistics
from lightning_mm.results.per_sample.weighted import Weights, average, correlation, is_constant, ratio

Convention = Literal["has0", "non0"]


def has_numbers(statistics: Statistics) -> bool:
    """Whether predictions and targets are one number per sample, not whole ones."""
    pair = [statistics.get(name) for name in ("prediction", "target")]
    if any(one is None or one.ndim != 1 for one in pair):
        return False
    return any(one is not None and one.dtype.kind == "f" for one in pair)


def _pair(statistics: Statistics) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return statistics["prediction"].astype(np.float32), statistics["target"].astype(np.float32)


def _errors(statistics: Statistics) -> NDArray[np.float64]:
    return statistics["prediction"].astype(np.float64) - statistics["target"].astype(np.float64)


def mae(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """Mean absolute error, ``Float[R]``."""
    return average(np.abs(_errors(statistics)), weights)


def rmse(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """Root of the mean squared error, ``Float[R]``."""
    return np.sqrt(average(_errors(statistics) ** 2, weights))


def r2(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """Share of the variance that is explained, ``Float[R]``; NaN if the labels are constant."""
    target = statistics["target"].astype(np.float64)
    around = target - (target.mean() if len(target) else 0.0)
    variance = average(around**2, weights) - average(around, weights) ** 2
    found = 1 - ratio(average(_errors(statistics) ** 2, weights), variance)
    return np.where(is_constant(target, weights), np.nan, found)


def pearson(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """Pearson's r, ``Float[R]``."""
    return correlation(statistics["prediction"], statistics["target"], weights)


def _rounded(limit: int, statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    one, other = (np.round(np.clip(values, -limit, limit)) for values in _pair(statistics))
    return average(one == other, weights)


def _signs(convention: Convention, statistics: Statistics) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Class of prediction and target, and which samples count."""
    prediction, target = _pair(statistics)
    if convention == "has0":
        return prediction >= 0, target >= 0, np.ones(len(target), dtype=bool)
    return prediction > 0, target > 0, target != 0


def _sign_accuracy(
    convention: Convention, statistics: Statistics, weights: Weights, labels: Labels
) -> NDArray[np.float64]:
    prediction, target, kept = _signs(convention, statistics)
    return average((prediction == target)[kept], weights[:, kept])


def _sign_f1(
    convention: Convention, swapped: bool, statistics: Statistics, weights: Weights, labels: Labels
) -> NDArray[np.float64]:
    prediction, target, kept = _signs(convention, statistics)
    prediction, target, weights = prediction[kept], target[kept], weights[:, kept]
    total = np.zeros(len(weights))
    for one in (False, True):
        hit, true, predicted = (
            weights @ part.astype(np.float64)
            for part in ((prediction == one) & (target == one), target == one, prediction == one)
        )
        share = ratio(predicted if swapped else true, weights.sum(axis=1))
        total = total + share * np.nan_to_num(ratio(2 * hit, true + predicted))
    return total


_NEEDS = "`prediction` and `target` of a regression"
METRICS = (
    Metric("mae", has_numbers, _NEEDS, mae, "min"),
    Metric("rmse", has_numbers, _NEEDS, rmse, "min"),
    Metric("r2", has_numbers, _NEEDS, r2),
    Metric("pearson", has_numbers, _NEEDS, pearson),
    Metric("acc7", has_numbers, _NEEDS, partial(_rounded, 3)),
    Metric("acc5", has_numbers, _NEEDS, partial(_rounded, 2)),
    Metric("acc2_has0", has_numbers, _NEEDS, partial(_sign_accuracy, "has0")),
    Metric("acc2_non0", has_numbers, _NEEDS, partial(_sign_accuracy, "non0")),
    Metric("f1_has0", has_numbers, _NEEDS, partial(_sign_f1, "has0", False)),
    Metric("f1_non0", has_numbers, _NEEDS, partial(_sign_f1, "non0", False)),
    Metric("f1_non0_swapped", has_numbers, _NEEDS, partial(_sign_f1, "non0", True)),
)
