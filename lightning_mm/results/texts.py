"""Numbers of a table as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_mm.results.result import SweepResult

NOTHING = "–"
NO_SHARES = frozenset({"pearson"})
"""Metrics in [-1, 1] that are no shares of anything, so that percent would be wrong: correlations."""


def is_percent(result: SweepResult, metric: str) -> bool:
    """Whether a metric is shown in percent: accuracies and overlaps are; errors and correlations are not."""
    if metric in NO_SHARES:
        return False
    values = [row.value for row in result.rows if row.metric == metric and math.isfinite(row.value)]
    return result.direction(metric) == "max" and all(abs(value) <= 1 for value in values)


def number(value: float, percent: bool, unit: str = "") -> str:
    """A value with one digit in percent, else with three; a dash where there is none."""
    if not math.isfinite(value):
        return NOTHING
    return f"{100 * value:.1f}{unit}" if percent else f"{value:.3f}{unit}"


def with_spread(value: float, percent: bool, interval: tuple[float, float] | None, std: float, unit: str = "") -> str:
    """A value with its standard deviation where there is one, else with its interval where there is one."""
    text = number(value, percent, unit)
    if text == NOTHING:
        return text
    if math.isfinite(std):
        return f"{text} ± {number(std, percent, unit)}"
    if interval:
        return f"{text} [{number(interval[0], percent)}, {number(interval[1], percent)}]"
    return text


def best_positions(values: list[float], direction: str) -> set[int]:
    """Where the best of several values stand; empty unless there are two to compare and not all are the same."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2 or len(set(finite)) == 1:
        return set()
    best = max(finite) if direction == "max" else min(finite)
    return {position for position, value in enumerate(values) if value == best}


def duration(seconds: float) -> str:
    """``52.3`` as ``52 s``, ``204`` as ``3.4 min``, ``9000`` as ``2.5 h``; a dash where there is none."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds else "0 s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 3597:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def trained(counts: dict[str, int]) -> str:
    """Trained parameters, and their share of the network where both are known."""
    if "trained" not in counts:
        return NOTHING
    return _with_share(counts["trained"], counts.get("base"))


def per_combination(counts: dict[str, int]) -> str:
    """Parameters that one combination adds, and their share of the network."""
    if "per_combination" not in counts:
        return NOTHING
    return _with_share(counts["per_combination"], counts.get("base"))


def _with_share(count: int, base: int | None) -> str:
    text = short_count(count)
    return f"{text} ({count / base:.2%})" if base and 0 < count < base else text


def short_count(count: int) -> str:
    """``1234567`` as ``1.23M``."""
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return str(count)
