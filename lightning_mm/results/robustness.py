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
    """Mean of ``values`` over ``combinations``; NaN if one of them is missing, so that no mean hides a gap."""
    picked = [values.get(combination, np.nan) for combination in combinations]
    return float(np.mean(picked)) if picked else float("nan")


def worst_of(values: Mapping[str, float], direction: Direction = "max") -> tuple[str, float]:
    """The combination with the worst value, and the value; ``("", nan)`` if no value is finite."""
    finite = {combination: value for combination, value in values.items() if np.isfinite(value)}
    if not finite:
        return "", float("nan")
    combination = (min if direction == "max" else max)(finite, key=lambda name: finite[name])
    return combination, finite[combination]


def drop(full: float, value: float, direction: Direction = "max") -> float:
    """Loss against the full combination; positive is a loss, in either direction of the metric."""
    return full - value if direction == "max" else value - full


def gain(value: float, other: float, direction: Direction = "max") -> float:
    """How much better a value is than another; positive is better, in either direction of the metric."""
    return value - other if direction == "max" else other - value


def recovered_gap(method: float, zero_fill: float, dedicated: float, direction: Direction = "max") -> float:
    """Share of the gap between zero fill and dedicated networks that a method closes.

    NaN if dedicated networks are not better than zero fill by more than rounding: there is nothing to recover.
    """
    gap = gain(dedicated, zero_fill, direction)
    rounding = 1e-9 * max(abs(dedicated), abs(zero_fill))
    return gain(method, zero_fill, direction) / gap if np.isfinite(gap) and gap > rounding else float("nan")


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


def area(curve: Sequence[float]) -> float:
    """Area under a curve over its length, in the unit of the metric; the value itself for a single level."""
    return float(curve[0]) if len(curve) == 1 else relative_robustness(curve, step=1 / (len(curve) - 1))


def effective_robustness(
    curve: Sequence[float] | NDArray[np.float64], reference: Sequence[float] | NDArray[np.float64]
) -> float:
    """Height of a curve above a reference curve (late fusion) that is moved to start at the same value.

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
    """Position of ``value`` between the worst (0) and the best (1) of ``values``; NaN if all of them are equal."""
    sign = 1.0 if direction == "max" else -1.0
    signed = [sign * other for other in values]
    low, high = min(signed), max(signed)
    return (sign * value - low) / (high - low) if high > low else float("nan")
