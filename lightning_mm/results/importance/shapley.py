"""How much each modality is worth: exact Shapley values of a sweep, and how pairs of modalities work together.

All values are in the unit of the metric; positive means better, in either direction of the metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations as choose

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import SEPARATOR, ModalityNames
from lightning_mm.results import seeds as by_seed
from lightning_mm.results.bootstrap import percentile_interval
from lightning_mm.results.figures import Figure
from lightning_mm.results.result import SweepResult

EXACT = 10
"""From more modalities on, permutations are sampled: a sweep of 2^M combinations would be needed otherwise."""
MAJORITY = "majority"
"""Method whose constant value is that of a network that sees nothing."""
Weights = Mapping[str, float]
"""Combination to the weight of its value; the empty combination is ``""``."""


@dataclass(frozen=True)
class Importance:
    """What each modality adds to one method.

    Args:
        method: The method.
        metric: The metric.
        shapley: Modality to its Shapley value; they add up to full minus empty.
        interactions: Pair of modalities to its interaction: positive if the two are worth more together than apart,
            negative if one can replace the other. Empty if permutations were sampled.
        full: Value of the full combination.
        empty: Value without any modality, which was given or is that of ``majority``.
        permutations: How many were sampled; 0 if the values are exact.
    """

    method: str
    metric: str
    shapley: dict[str, Figure]
    interactions: dict[tuple[str, str], Figure]
    full: float
    empty: float
    permutations: int = 0


def importance(result: SweepResult, method: str, metric: str | None = None, empty: float | None = None) -> Importance:
    """Shapley values of modalities, with the interval of the sweep's bootstrap and the spread over seeds.

    Args:
        result: A sweep with all combinations, or with those of :func:`sampled_combinations`.
        method: Which method.
        metric: Which metric; the primary one by default. A metric of one class tells how much a modality is worth
            for that class.
        empty: Value without any modality, such as the share of the most frequent class; by default the value of the
            method ``majority``.

    Raises:
        LightningMMError: If combinations are missing, or ``empty`` is neither given nor in the sweep.

    Reference:
        Shapley, A value for n-person games (1953); the interaction index of Grabisch and Roubens (1999).

    Example:
        >>> from lightning_mm.results import SweepResult, SweepRow
        >>> values = {"rgb": 0.6, "depth": 0.5, "rgb+depth": 0.9}
        >>> rows = [SweepRow("ssf", name, 1 + name.count("+"), "accuracy", v, 9, 0) for name, v in values.items()]
        >>> found = importance(SweepResult(rows, ["rgb", "depth"], "accuracy"), "ssf", empty=0.2)
        >>> {name: round(one.value, 3) for name, one in found.shapley.items()}
        {'rgb': 0.4, 'depth': 0.3}
    """
    metric = result.require_metric(metric)
    names = ModalityNames(result.modalities)
    figures = result.figures(method, metric)
    per_seed = figures.values
    if not per_seed:
        raise LightningMMError(f"no figures of method {method!r}; this sweep has {result.methods}")
    known = set.intersection(*(set(values) for values in per_seed.values()))
    shapley, permutations = _shapley_weights(names, known, method)
    pairs = {} if permutations else {pair: _interaction(names, *pair) for pair in choose(names, 2)}
    nothing = _empty(result, metric, empty)
    sign = 1.0 if result.direction(metric) == "max" else -1.0

    def figure(weights: Weights) -> Figure:
        values = [sign * _apply(weights, {**own, "": nothing}) for own in per_seed.values()]
        interval = _interval(result, method, metric, weights, nothing, sign) if len(values) == 1 else None
        return Figure(float(np.mean(values)), by_seed.spread(values), interval, tuple(per_seed))

    return Importance(
        method,
        metric,
        {name: figure(weights) for name, weights in shapley.items()},
        {pair: figure(weights) for pair, weights in pairs.items()},
        figures.of(names.full).value,
        nothing,
        permutations,
    )


def sampled_combinations(names: ModalityNames, permutations: int = 32, seed: int = 0) -> tuple[str, ...]:
    """The combinations to sweep for Shapley values of many modalities: all beginnings of sampled permutations.

    Every second permutation is the one before it backwards, which halves the variance in most networks. The values of
    the sampled permutations still add up to full minus empty, exactly.
    """
    chains = _permutations(names, permutations, seed)
    return names.select([SEPARATOR.join(chain[:size]) for chain in chains for size in range(1, len(names) + 1)])


def _permutations(names: ModalityNames, count: int, seed: int = 0) -> list[tuple[str, ...]]:
    generator = np.random.default_rng(seed)
    found: list[tuple[str, ...]] = []
    while len(found) < count:
        one = tuple(names[int(position)] for position in generator.permutation(len(names)))
        found += [one, one[::-1]]
    return found[:count]


def _shapley_weights(names: ModalityNames, known: set[str], method: str) -> tuple[dict[str, dict[str, float]], int]:
    """Modality to the weights of all combinations, and how many permutations were sampled (0: exact)."""
    missing = [] if len(names) > EXACT else [name for name in names.combinations() if name not in known]
    if len(names) <= EXACT and not missing:
        return {name: _exact(names, name) for name in names}, 0
    chains: list[tuple[str, ...]] = []
    for chain in _permutations(names, 10_000):  # as many as the sweep has, in the order of sampled_combinations
        if any(names.canonical(SEPARATOR.join(chain[:size])) not in known for size in range(1, len(chain) + 1)):
            break
        chains.append(chain)
    if len(chains) < 2:
        what = (
            f"{missing[0]!r}" + f" and {len(missing) - 1} more" * (len(missing) > 1) if missing else "two permutations"
        )
        raise LightningMMError(
            f"Shapley values need all combinations of {method!r}, or those of sampled_combinations(); it lacks {what}"
        )
    weights: dict[str, dict[str, float]] = {name: {} for name in names}
    for chain in chains:
        for size, name in enumerate(chain):
            before = names.canonical(SEPARATOR.join(chain[:size])) if size else ""
            after = names.canonical(SEPARATOR.join(chain[: size + 1]))
            for combination, sign in ((after, 1), (before, -1)):
                weights[name][combination] = weights[name].get(combination, 0.0) + sign / len(chains)
    return weights, len(chains)


def _exact(names: ModalityNames, name: str) -> dict[str, float]:
    """The weight of each combination in the Shapley value of a modality."""
    total, weights = len(names), {}
    for combination in ("", *names.combinations()):
        inside = combination.split(SEPARATOR) if combination else []
        before = len(inside) - (name in inside)
        share = 1 / (total * math.comb(total - 1, before))
        weights[combination] = share if name in inside else -share
    return weights


def _interaction(names: ModalityNames, one: str, other: str) -> dict[str, float]:
    """The weight of each combination in the interaction index of a pair."""
    total, weights = len(names), {}
    for combination in ("", *names.combinations()):
        inside = combination.split(SEPARATOR) if combination else []
        both = (one in inside) + (other in inside)
        share = 1 / ((total - 1) * math.comb(total - 2, len(inside) - both))
        weights[combination] = -share if both == 1 else share
    return weights


def _apply(weights: Weights, values: Mapping[str, float]) -> float:
    return float(sum(weight * values[combination] for combination, weight in weights.items()))


def _empty(result: SweepResult, metric: str, given: float | None) -> float:
    if given is not None:
        return given
    constant = result.values(MAJORITY, metric) if MAJORITY in result.methods else {}
    if not constant:
        raise LightningMMError(
            f"what is {metric} without any modality? The sweep has no method {MAJORITY!r}; give the value (--empty, "
            f"empty=...), e.g. the share of the most frequent class"
        )
    return next(iter(constant.values()))


def _interval(
    result: SweepResult, method: str, metric: str, weights: Weights, empty: float, sign: float
) -> tuple[float, float] | None:
    """The bootstrap interval; every replicate resamples the same samples for all combinations."""
    if result.bootstrap is None:
        return None
    total: NDArray[np.float64] | float = weights.get("", 0.0) * empty
    for combination, weight in weights.items():
        if combination:
            replicates = result.bootstrap.replicates.get((method, combination, metric))
            if replicates is None:
                return None
            total = total + weight * replicates
    return percentile_interval(sign * np.asarray(total), result.bootstrap.level)
