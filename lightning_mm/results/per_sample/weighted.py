"""Weighted counts and averages: the building blocks of metrics that are computed for many resamples at once.

Shapes: n samples, C classes, R resamples; weights say how often each resample draws each sample, ``Float[R, n]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Divide; NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)


def average(values: NDArray[Any], weights: Weights) -> NDArray[np.float64]:
    """The mean of values ``[n]`` in every resample, ``Float[R]``; NaN for an empty one."""
    return ratio(weights @ values.astype(np.float64), weights.sum(axis=1))


def counts_of(classes: NDArray[Any], number: int, weights: Weights) -> NDArray[np.float64]:
    """How often each class occurs, ``Int[n]`` -> ``Float[R, C]``; labels below 0 are in no class."""
    one_hot = classes[:, None] == np.arange(number)
    return weights @ one_hot.astype(np.float64)


def mean_of_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis of the values that are not NaN; NaN if none is."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))


def weighted_mean_of(values: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the last axis, weighted by ``shares``; NaN counts as 0, as in torchmetrics."""
    return ratio((np.nan_to_num(values) * shares).sum(axis=-1), shares.sum(axis=-1))


def correlation(x: NDArray[Any], y: NDArray[Any], weights: Weights) -> NDArray[np.float64]:
    """Pearson's r of ``Float[n]`` and ``Float[n]`` in every resample; NaN where one of them is constant."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    total = weights.sum(axis=1)
    if len(x):
        # around the overall mean, so that a resample subtracts no large numbers
        x, y = x - x.mean(), y - y.mean()
    mean_x, mean_y = ratio(weights @ x, total), ratio(weights @ y, total)
    covariance = ratio(weights @ (x * y), total) - mean_x * mean_y
    variances = [ratio(weights @ (one * one), total) - mean**2 for one, mean in ((x, mean_x), (y, mean_y))]
    constant = is_constant(x, weights) | is_constant(y, weights)
    product = np.sqrt(np.where(constant, np.nan, variances[0] * variances[1]))
    return ratio(covariance, product)


def is_constant(values: NDArray[Any], weights: Weights) -> NDArray[np.bool_]:
    """Whether all drawn values of a resample are equal, ``Bool[R]``; true for fewer than two draws."""
    _, codes = np.unique(values, return_inverse=True)
    drawn = weights > 0
    low = np.where(drawn, codes, len(values)).min(axis=1, initial=len(values))
    high = np.where(drawn, codes, -1).max(axis=1, initial=-1)
    result: NDArray[np.bool_] = (low >= high) | (weights.sum(axis=1) < 2)
    return result


def area_under_roc(score: NDArray[Any], target: NDArray[Any], weights: Weights) -> NDArray[np.float64]:
    """Probability that a sample of class 1 has a higher score than one of class 0, ties count half, ``Float[R]``.

    NaN if one of the classes is absent.
    """
    if not len(score):
        return np.full(len(weights), np.nan)
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    positive = np.add.reduceat(weights[:, order] * (target[order] == 1), starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * (target[order] == 0), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))
