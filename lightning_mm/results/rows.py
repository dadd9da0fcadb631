"""One figure of a sweep as plain data, and the names of methods that other figures refer to."""

from __future__ import annotations

from dataclasses import dataclass, fields

ZERO_FILL = "zero_fill"
"""The method that fills absent inputs and does nothing else: the lower end of the recovered gap."""
ADAPTED = "adapted"
"""The method with adapters switched on."""
DEDICATED = "dedicated"
"""Networks trained for one combination each: the upper end of the recovered gap."""


@dataclass(frozen=True)
class SweepRow:
    """A metric of one method, combination and seed; its fields are the columns of ``sweep.csv``.

    Args:
        method: Name of the method.
        combination: Available modalities in the fixed order, e.g. ``rgb+depth``.
        n_available: Number of modalities in the combination.
        metric: Name of the metric.
        value: A fraction, not percent; NaN if undefined.
        n: Number of samples that count for the combination.
        seed: Seed of the run that trained the network.
        low: Lower end of the bootstrap interval over samples, if there is one.
        high: Upper end.
    """

    method: str
    combination: str
    n_available: int
    metric: str
    value: float
    n: int
    seed: int
    low: float | None = None
    high: float | None = None


COLUMNS = tuple(field.name for field in fields(SweepRow))
"""Columns of ``sweep.csv`` and of the table in Weights & Biases."""
