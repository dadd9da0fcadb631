"""How much each modality is worth: exact Shapley values of a sweep, and how pairs of modalities work together.

All values are in the unit of the metric; positive means better, in either direction of the metric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations as choose

import numpy as np

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import SEPARATOR, ModalityNames
from lightning_mm.results import seeds as by_seed
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.figures import Figure
from lightning_mm.results.importance.guess import value_of_guessing
from lightning_mm.results.per_sample.resample import resampled
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robust.linear import Weights, weighted_sum

EXACT = 10
"""From more modalities on, permutations are sampled: a sweep of 2^M combinations would be needed otherwise."""
MAJORITY = "majority"
"""Method whose constant value is that of a network that sees nothing."""


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
        empty: Value without any modality.
        permutations: How many were sampled; 0 if the values are exact.
        source: Where ``empty`` comes from; nothing if it was given.
        left_out: Seeds of the method that lack a combination, while others have all: these do not count.
    """

    method: str
    metric: str
    shapley: dict[str, Figure]
    interactions: dict[tuple[str, str], Figure]
    full: float
    empty: float
    permutations: int = 0
    source: str = ""
    left_out: tuple[int, ...] = ()

    @property
    def left_out_note(self) -> str:
        """Which seeds do not count; empty if all do."""
        if not self.left_out:
            return ""
        names = ", ".join(map(str, self.left_out))
        one = len(self.left_out) == 1
        return f"{self.method}: without seed{'' if one else 's'} {names}, which lack{'s' if one else ''} combinations"


def importance(
    result: SweepResult,
    method: str,
    metric: str | None = None,
    empty: float | None = None,
    bootstrap: Bootstrap | None = None,
) -> Importance:
    """Shapley values of modalities, with paired bootstrap intervals and the spread over seeds.

    Args:
        result: A sweep with all combinations, or with those of :func:`sampled_combinations`. If a method has all of
            them in some seeds, only these count.
        method: Which method.
        metric: Which metric; the primary one by default. A metric of one class tells how much a modality is worth
            for that class, see :func:`lightning_mm.results.importance.importance_per_class`.
        empty: Value without any modality; by default that of the method ``majority``, or that of always guessing the
            most frequent label (the median of numbers), if labels are stored.
        bootstrap: Replicates for intervals, see :func:`lightning_mm.results.per_sample.resampled`; those of the sweep
            by default. Every replicate resamples the same samples for all combinations; ``empty`` is a constant.

    Raises:
        LightningMMError: If combinations are missing, or ``empty`` is neither given nor known.

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
    if not figures.values:
        raise LightningMMError(f"no figures of method {method!r}; this sweep has {result.methods}")
    wanted = {name for own in figures.values.values() for name in own} if len(names) > EXACT else names.combinations()
    whole = by_seed.complete(figures.values, wanted)
    left_out = tuple(seed for seed in figures.values if whole and seed not in whole)
    if left_out:
        rows = [row for row in result.rows if row.method != method or row.seed in whole]
        bootstrap = _of_seeds(result, metric, method, whole, bootstrap)
        result = replace(result, rows=rows, bootstrap=None)
        figures = result.figures(method, metric)
    known = set.intersection(*(set(values) for values in figures.values.values()))
    shapley, permutations = _shapley_weights(names, known, method)
    pairs = {} if permutations else {pair: _interaction(names, *pair) for pair in choose(names, 2)}
    nothing, source = _empty(result, metric, empty)
    sign = 1.0 if result.direction(metric) == "max" else -1.0
    # replicates of several seeds are no single sweep's; those that were drawn over all seeds are given
    own = bootstrap or (result.bootstrap if len(figures.values) == 1 else None)
    # each of the sums below looks through all rows
    of_method = replace(result, rows=[row for row in result.rows if (row.method, row.metric) == (method, metric)])

    def figure(weights: Weights) -> Figure:
        signed = {name: sign * weight for name, weight in weights.items()}
        return weighted_sum(of_method, metric, {method: signed}, nothing, own)

    return Importance(
        method,
        metric,
        {name: figure(weights) for name, weights in shapley.items()},
        {pair: figure(weights) for pair, weights in pairs.items()},
        figures.of(names.full).value,
        nothing,
        permutations,
        source,
        left_out,
    )


def _of_seeds(
    result: SweepResult, metric: str, method: str, seeds: Sequence[int], before: Bootstrap | None
) -> Bootstrap | None:
    """Replicates of some seeds of a method, as many as before; ``None`` if no statistics of its samples are stored."""
    drawn = next(iter(before.replicates.values()), None) if before is not None else None
    if before is None or drawn is None:
        return None
    try:
        return resampled(result, metric, [method], seeds=seeds, replicates=len(drawn), level=before.level)
    except LightningMMError:
        return None


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


def _empty(result: SweepResult, metric: str, given: float | None) -> tuple[float, str]:
    """The value without any modality, and where it comes from."""
    if given is not None:
        return given, ""
    constant = result.values(MAJORITY, metric) if MAJORITY in result.methods else {}
    if constant:
        return next(iter(constant.values())), MAJORITY
    guessed = value_of_guessing(result, metric)
    if guessed is None:
        raise LightningMMError(
            f"what is {metric} without any modality? The sweep has no method {MAJORITY!r} and no labels that say it; "
            f"give the value (--empty, empty=...), e.g. the share of the most frequent class"
        )
    return guessed
