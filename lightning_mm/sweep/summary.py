"""What ``sweep.json`` says of one method: the foot of the table, as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_mm.sweep.seeds import differences, spread

if TYPE_CHECKING:
    from lightning_mm.sweep.result import SweepResult


def summarise(result: SweepResult, method: str, metric: str) -> dict[str, Any]:
    """Mean, worst, full, drop, robustness, gain and recovered gap of a method, each with what is known of its spread.

    Returns:
        Figures under their names. ``<name>_interval`` is a pair or ``None``; ``<name>_std`` is the standard deviation
        over ``seeds``, NaN for a single one. ``gain_over_zero_fill`` and ``recovered_gap`` are compared seed by seed.
    """
    from lightning_mm.sweep.result import DEDICATED, ZERO_FILL

    worst_combination, worst = result.worst(method, metric)
    mean, means = result.mean(method, metric), result.mean_per_seed(method, metric)
    found: dict[str, Any] = {
        "seeds": result.seeds(method, metric),
        "mean": mean,
        "mean_std": spread(means.values()),
        "mean_interval": result.mean_interval(method, metric),
        "worst": worst,
        "worst_std": result.worst_std(method, metric),
        "worst_combination": worst_combination,
        "full": result.full(method, metric),
        "full_std": result.full_std(method, metric),
        "drop": result.drop(method, metric),
        "drop_std": result.drop_std(method, metric),
        "robustness": result.robustness(method, metric),
    }
    if ZERO_FILL not in result.methods or method == ZERO_FILL:
        return found
    found["gain_over_zero_fill"] = mean - result.mean(ZERO_FILL, metric)
    found["gain_over_zero_fill_std"] = spread(differences(means, result.mean_per_seed(ZERO_FILL, metric)).values())
    if result.bootstrap:
        found["gain_over_zero_fill_interval"] = result.bootstrap.difference_interval(
            method, ZERO_FILL, metric, result.incomplete
        )
    covered = result.dedicated_combinations(metric)
    if covered:
        found["recovered_gap"] = result.recovered_gap(method, metric)
        found["recovered_gap_std"] = result.recovered_gap_std(method, metric)
        found["recovered_gap_over"] = covered
        found["recovered_gap_interval"] = result.bootstrap and result.bootstrap.recovered_gap_interval(
            method, metric, covered, ZERO_FILL, DEDICATED
        )
    return found
