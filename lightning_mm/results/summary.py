"""What ``sweep.json`` says of one method: the foot of the table, as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_mm.results.seeds import differences, spread

if TYPE_CHECKING:
    from lightning_mm.results.result import SweepResult


def summarise(result: SweepResult, method: str, metric: str) -> dict[str, Any]:
    """Mean, worst, full, drop, robustness, gain and recovered gap of a method, each with what is known of its spread.

    Returns:
        Figures under their names. ``<name>_interval`` is a pair or ``None``; ``<name>_std`` is the standard deviation
        over ``seeds``, NaN for a single one. ``gain_over_zero_fill`` (positive is better, whichever way the metric
        points) and ``recovered_gap`` are compared seed by seed, over the shared seeds under ``<name>_seeds``; none
        shared, they compare the means of different seeds.
    """
    from lightning_mm.results.result import DEDICATED, ZERO_FILL

    worst_combination, worst = result.worst(method, metric)
    means = result.mean_per_seed(method, metric)
    found: dict[str, Any] = {
        "seeds": result.seeds(method, metric),
        "mean": result.mean(method, metric),
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
    found["gain_over_zero_fill"] = result.gain(method, ZERO_FILL, metric)
    found["gain_over_zero_fill_seeds"] = result.shared_seeds([method, ZERO_FILL], metric)
    found["gain_over_zero_fill_std"] = spread(differences(means, result.mean_per_seed(ZERO_FILL, metric)).values())
    if result.bootstrap:
        first, second = (method, ZERO_FILL) if result.direction(metric) == "max" else (ZERO_FILL, method)
        found["gain_over_zero_fill_interval"] = result.bootstrap.difference_interval(
            first, second, metric, result.incomplete
        )
    covered = result.dedicated_combinations(metric)
    if covered:
        found["recovered_gap"] = result.recovered_gap(method, metric)
        found["recovered_gap_std"] = result.recovered_gap_std(method, metric)
        found["recovered_gap_over"] = covered
        found["recovered_gap_seeds"] = result.shared_seeds([method, ZERO_FILL, DEDICATED], metric, covered)
        found["recovered_gap_interval"] = result.bootstrap and result.bootstrap.recovered_gap_interval(
            method, metric, covered, ZERO_FILL, DEDICATED, result.direction(metric)
        )
    return found
