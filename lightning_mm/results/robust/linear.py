"""Figures that are weighted sums of the values of combinations: value, spread over seeds and paired interval at once.

Areas, expectations, drops, differences and Shapley values are all of this kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from lightning_mm.results import seeds as by_seed
from lightning_mm.results.bootstrap import Bootstrap, percentile_interval
from lightning_mm.results.figures import Figure, shared_seeds
from lightning_mm.results.result import SweepResult

Weights = Mapping[str, float]
"""Combination to the weight of its value; the empty combination is ``""``."""


def weighted_sum(
    result: SweepResult,
    metric: str,
    terms: Mapping[str, Weights],
    empty: float = 0.0,
    bootstrap: Bootstrap | None = None,
) -> Figure:
    """Add up weighted values of combinations, of one method or several.

    Args:
        result: The figures.
        metric: Which metric.
        terms: Method to the weights of its combinations; of two methods, ``{a: w, b: -w}`` is a difference.
        empty: Value of the empty combination, a constant.
        bootstrap: Replicates of all combinations, all of the same resamples.

    Returns:
        The mean over the seeds that have all of these combinations, NaN if none has; with an interval if there are
        replicates of all of them, and the methods have no other seeds, over which replicates are means as well.
    """
    figures = {method: result.figures(method, metric) for method in terms}
    wanted = {method: [name for name in weights if name] for method, weights in terms.items()}
    every = sorted({name for names in wanted.values() for name in names})
    if len(terms) == 1:
        (one,) = figures.values()
        seeds = by_seed.complete(one.values, every)
    else:
        seeds = [
            seed
            for seed in shared_seeds(list(figures.values()), [])
            if all(_has(figures[method].values, seed, wanted[method], figures[method].is_constant) for method in terms)
        ]
    values = [
        sum(_apply(weights, _of_seed(figures[method].values, seed), empty) for method, weights in terms.items())
        for seed in seeds
    ]
    value = float(np.mean(values)) if values else math.nan
    of_all_seeds = all(one.is_constant or set(one.values) == set(seeds) for one in figures.values())
    interval = _interval(terms, metric, empty, bootstrap) if of_all_seeds else None
    return Figure(value, by_seed.spread(values), interval, tuple(seeds))


def _of_seed(values: Mapping[int, Mapping[str, float]], seed: int) -> Mapping[str, float]:
    """The values of a seed; a constant has the same in every one."""
    return values[seed] if seed in values else next(iter(values.values()))


def _has(values: Mapping[int, Mapping[str, float]], seed: int, names: Iterable[str], constant: bool) -> bool:
    if seed not in values and not constant:
        return False
    return set(names) <= _of_seed(values, seed).keys()


def _apply(weights: Weights, values: Mapping[str, float], empty: float) -> float:
    return float(sum(weight * (values[name] if name else empty) for name, weight in weights.items()))


def _interval(
    terms: Mapping[str, Weights], metric: str, empty: float, bootstrap: Bootstrap | None
) -> tuple[float, float] | None:
    found = replicates_of(terms, metric, empty, bootstrap)
    return None if found is None or bootstrap is None else percentile_interval(found, bootstrap.level)


def replicates_of(
    terms: Mapping[str, Weights], metric: str, empty: float, bootstrap: Bootstrap | None
) -> NDArray[np.float64] | None:
    """The weighted sum in every resample, ``Float[R]``; ``None`` if one of the combinations has no replicates."""
    if bootstrap is None:
        return None
    total: NDArray[np.float64] | None = None
    constant = 0.0
    for method, weights in terms.items():
        for name, weight in weights.items():
            if not name:
                constant += weight * empty
                continue
            values = bootstrap.replicates.get((method, name, metric))
            if values is None:
                return None
            total = weight * values if total is None else total + weight * values
    return None if total is None else total + constant
