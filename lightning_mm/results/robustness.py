"""Figures of robustness over combinations of available modalities, as pure functions of numbers.

Values are fractions (0.492 means 49.2 %); a curve lists a metric from nothing missing to most missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["max", "min"]


def mean_over(values: Mapping[str, float], combinations: Iterable[str]) -> float:
    """Mean of ``values`` over ``combinations``; NaN where one of them is not there, so that no mean hides a gap."""
    picked = [values.get(combination, np.nan) for combination in combinations]
    return float(np.mean(picked)) if picked else float("nan")


def worst_of(values: Mapping[str, float], direction: Direction = "max") -> tuple[str, float]:
    """The combination with the worst value, and the value; ``("", nan)`` where no value is finite."""
    finite = {combination: value for combination, value in values.items() if np.isfinite(value)}
    if not finite:
        return "", float("nan")
    combination = (min if direction == "max" else max)(finite, key=lambda name: finite[name])
    return combination, finite[combination]


def drop(full: float, value: float, direction: Direction = "max") -> float:
    """How much is lost against the full combination; positive is a loss, whichever way the metric points."""
    return full - value if direction == "max" else value - full


def gain(value: float, other: float, direction: Direction = "max") -> float:
    """How much better a value is than another; negative where it is worse, whichever way the metric points."""
    return value - other if direction == "max" else other - value


def recovered_gap(method: float, zero_fill: float, dedicated: float, direction: Direction = "max") -> float:
    """Share of the gap between zero fill and dedicated networks that a method closes.

    NaN where dedicated networks are not better than zero fill (by more than rounding): there is nothing to recover.
    """
    gap = gain(dedicated, zero_fill, direction)
    rounding = 1e-9 * max(abs(dedicated), abs(zero_fill))
    return gain(method, zero_fill, direction) / gap if np.isfinite(gap) and gap > rounding else float("nan")


def missing_curve(values: Mapping[str, float], size_of: Mapping[str, int]) -> NDArray[np.float64]:
    """Mean value by the number of missing modalities, from none missing to all but one missing.

    Args:
        values: Combination to value.
        size_of: Combination to the number of its modalities, for all 2^M - 1 combinations.

    Shape:
        ``[M]``; NaN where a combination of that size has no value.
    """
    largest = max(size_of.values(), default=0)
    sizes = range(largest, 0, -1)
    return np.array([mean_over(values, [name for name, size in size_of.items() if size == k]) for k in sizes])


def relative_robustness(curve: Sequence[float] | NDArray[np.float64], step: float = 0.1) -> float:
    """Area under a curve of a metric over growing disturbance (trapezoid rule).

    Args:
        curve: The metric at equally spaced levels of disturbance, none first.
        step: Distance of two levels.

    Reference:
        MultiBench (arXiv 2107.07502), section 3.3.
    """
    values = np.asarray(curve, dtype=np.float64)
    # Written out because numpy renamed its own function between 1 and 2.
    return float(step * (values.sum() - (values[0] + values[-1]) / 2))


def effective_robustness(
    curve: Sequence[float] | NDArray[np.float64], reference: Sequence[float] | NDArray[np.float64]
) -> float:
    """How far a curve stays above a reference curve (late fusion) that is moved to start at the same value.

    Args:
        curve: The metric at equally spaced levels of disturbance, none first.
        reference: The curve of the reference method at the same levels.

    Returns:
        The sum of the differences over the levels.

    Reference:
        MultiBench (arXiv 2107.07502), section 3.3; Taori et al. (arXiv 2007.00644).
    """
    own, base = np.asarray(curve, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if own.shape != base.shape:
        raise ValueError(f"expected curves of the same length, got {own.shape} and {base.shape}")
    return float(np.sum(own - (base + own[0] - base[0])))


def normalised(value: float, values: Iterable[float], direction: Direction = "max") -> float:
    """Where ``value`` lies between the worst (0) and the best (1) of ``values``; NaN where they are all the same."""
    sign = 1.0 if direction == "max" else -1.0
    signed = [sign * other for other in values]
    low, high = min(signed), max(signed)
    return (sign * value - low) / (high - low) if high > low else float("nan")
