"""What methods return when one modality is damaged, and when it is declared absent instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from lightning_mm.errors import LightningMMError
from lightning_mm.results.figures import Figure
from lightning_mm.results.robustness import Direction, gain
from lightning_mm.results.seeds import spread

CLEAN = "clean"
"""The corruption of rows in which nothing is damaged."""
LEFT_OUT = "left_out"
"""The corruption of rows in which the modality is declared absent."""


@dataclass(frozen=True)
class CorruptionRow:
    """A metric of one method, seed and damage; its fields are the columns of ``corruption.csv``.

    Args:
        method: Name of the method.
        modality: The modality that is damaged or left out, all others being there as they are; empty for none.
        corruption: Name of the corruption; ``clean`` for none, ``left_out`` where the modality is declared absent.
        severity: 1 to 5; 0 for ``clean`` and ``left_out``.
        metric: Name of the metric.
        value: A fraction, not percent; NaN if undefined.
        n: Number of samples: those that observed all modalities; for ``left_out`` all but this one.
        seed: Seed of the run that trained the network.
        low: Lower end of the bootstrap interval over samples, if there is one.
        high: Upper end.
    """

    method: str
    modality: str
    corruption: str
    severity: int
    metric: str
    value: float
    n: int
    seed: int
    low: float | None = None
    high: float | None = None


COLUMNS = tuple(one.name for one in fields(CorruptionRow))
"""Columns of ``corruption.csv``."""


@dataclass
class CorruptionResult:
    """All rows of one or several networks.

    Args:
        rows: One per method, damage, metric and seed.
        primary_metric: What tables and pictures show by default.
        directions: Metric to ``"max"`` or ``"min"``; ``"max"`` if missing.

    Example:
        >>> values = {("left_out", 0): 0.8, ("blur", 1): 0.9, ("blur", 5): 0.6}
        >>> rows = [CorruptionRow("adapted", "image", *one, "accuracy", value, 99, 0) for one, value in values.items()]
        >>> CorruptionResult(rows, "accuracy").pays_from("adapted", "image", "blur")
        5
    """

    rows: list[CorruptionRow]
    primary_metric: str
    directions: dict[str, Direction] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Methods in the order of their first row."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def damages(self) -> list[tuple[str, str]]:
        """Pairs of modality and corruption in the order of their first row; ``clean`` and ``left_out`` are none."""
        return list(dict.fromkeys((row.modality, row.corruption) for row in self.rows if row.severity))

    @property
    def severities(self) -> list[int]:
        """The severities of all damages, ascending, without 0."""
        return sorted({row.severity for row in self.rows} - {0})

    def direction(self, metric: str | None = None) -> Direction:
        """Whether more (``"max"``) or less of a metric is better."""
        return self.directions.get(metric or self.primary_metric, "max")

    def require_metric(self, metric: str | None = None) -> str:
        """The metric, or the primary one for ``None``; a LightningMMError if there are no rows of it."""
        chosen, known = metric or self.primary_metric, list(dict.fromkeys(row.metric for row in self.rows))
        if chosen not in known:
            raise LightningMMError(f"no figures of metric {chosen!r}; this table has {known}")
        return chosen

    def figure(self, method: str, modality: str, corruption: str, severity: int, metric: str | None = None) -> Figure:
        """The mean over seeds with its standard deviation, or the value with its interval; NaN if there is no row."""
        key = (method, modality, corruption, severity, metric or self.primary_metric)
        found = [
            row for row in self.rows if (row.method, row.modality, row.corruption, row.severity, row.metric) == key
        ]
        values, interval = [row.value for row in found], None
        if len(found) == 1 and found[0].low is not None and found[0].high is not None:
            interval = found[0].low, found[0].high
        seeds = tuple(sorted(row.seed for row in found))
        return Figure(float(np.mean(values)) if values else math.nan, spread(values), interval, seeds)

    def pays(self, method: str, modality: str, corruption: str, severity: int, metric: str | None = None) -> bool:
        """Whether the method is better, in the mean over seeds, if the damaged modality is declared absent."""
        kept = self.figure(method, modality, corruption, severity, metric).value
        left_out = self.figure(method, modality, LEFT_OUT, 0, metric).value
        return gain(left_out, kept, self.direction(metric)) > 0

    def pays_from(self, method: str, modality: str, corruption: str, metric: str | None = None) -> int | None:
        """The lowest severity from which on declaring the modality absent is better at all that were tried, or None."""
        found = None
        for severity in reversed(self._tried(method, modality, corruption)):
            if not self.pays(method, modality, corruption, severity, metric):
                break
            found = severity
        return found

    def _tried(self, method: str, modality: str, corruption: str) -> Sequence[int]:
        key = (method, modality, corruption)
        return sorted({row.severity for row in self.rows if (row.method, row.modality, row.corruption) == key})
