"""Figures of every seed by itself, and their spread.

A seed counts for a mean only where the method has every combination of it, so that neither a mean nor its spread mixes
complete with incomplete seeds; only where no seed has all of them is the mean that of all. Methods are compared on the
seeds that they share, where they share any. Standard deviations divide by one less than the number of seeds; of a
single seed there is none (NaN).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lightning_mm.results import robustness

if TYPE_CHECKING:
    from lightning_mm.results.result import SweepResult

PerSeed = dict[int, float]
"""Seed to figure, seeds ascending; seeds without the figure are left out."""


def spread(values: Iterable[float]) -> float:
    """Standard deviation (n - 1) of the finite values; NaN for fewer than two."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan


def values_per_seed(result: SweepResult, method: str, metric: str) -> dict[int, dict[str, float]]:
    """Seed to combination to value, seeds ascending."""
    found: dict[int, dict[str, float]] = {}
    for row in result.rows:
        if row.method == method and row.metric == metric:
            found.setdefault(row.seed, {})[row.combination] = row.value
    return dict(sorted(found.items()))


def mean_per_seed(values: Mapping[int, Mapping[str, float]], combinations: Iterable[str]) -> PerSeed:
    """The mean over ``combinations`` in every seed that has all of them."""
    wanted = list(combinations)
    means = {seed: robustness.mean_over(own, wanted) for seed, own in values.items()}
    return {seed: mean for seed, mean in means.items() if math.isfinite(mean)}


def complete(values: Mapping[int, Mapping[str, float]], combinations: Iterable[str]) -> list[int]:
    """The seeds that have all of the combinations."""
    wanted = set(combinations)
    return [seed for seed, own in values.items() if wanted <= own.keys()]


def lacking(values: Mapping[int, Mapping[str, float]]) -> dict[int, list[str]]:
    """What each seed lacks of all that the method has in some seed; seeds that lack nothing are left out."""
    every = list(dict.fromkeys(name for own in values.values() for name in own))
    found = {seed: [name for name in every if name not in own] for seed, own in values.items()}
    return {seed: names for seed, names in found.items() if names}


def averages(
    values: Mapping[int, Mapping[str, float]], combinations: Iterable[str], among: Iterable[int] | None = None
) -> dict[str, float]:
    """Each combination's mean over the seeds that have all of the combinations, where any has, else over all seeds.

    Args:
        values: Seed to combination to value.
        combinations: What a seed must have; the others are left out of what is returned.
        among: Seeds to choose from, where any of them has all; all by default.
    """
    wanted = list(combinations)
    whole = complete(values, wanted)
    seeds = [seed for seed in whole if among is None or seed in set(among)] or whole or list(values)
    found = {name: [values[seed][name] for seed in seeds if name in values[seed]] for name in wanted}
    return {name: float(np.mean(own)) for name, own in found.items() if own}


def shared(values: Iterable[Mapping[int, Mapping[str, float]]], combinations: Iterable[str]) -> list[int]:
    """The seeds in which all of several methods have all of the combinations, ascending; empty where there are none."""
    wanted = list(combinations)
    seeds = [set(complete(own, wanted)) for own in values]
    return sorted(set.intersection(*seeds)) if seeds else []


def is_constant(result: SweepResult, method: str, metric: str) -> bool:
    """Whether a method says the same of every combination, and that for one seed and without an interval.

    Such a constant (see :func:`lightning_mm.sweep.constant_rows`) stands for every seed.
    """
    rows = [row for row in result.rows if row.method == method and row.metric == metric]
    same = len({row.value for row in rows}) == 1 and len({row.seed for row in rows}) == 1
    return same and len(rows) == len(result.combinations) > 1 and all(row.low is None for row in rows)


def gap_per_seed(
    own: PerSeed, zero_fill: PerSeed, dedicated: PerSeed, direction: robustness.Direction = "max"
) -> PerSeed:
    """The recovered gap of every seed that has all three means and a gap."""
    seeds = [seed for seed in own if seed in zero_fill and seed in dedicated]
    gaps = {seed: robustness.recovered_gap(own[seed], zero_fill[seed], dedicated[seed], direction) for seed in seeds}
    return {seed: gap for seed, gap in gaps.items() if math.isfinite(gap)}


def differences(own: PerSeed, other: PerSeed) -> PerSeed:
    """``own - other`` in every seed that has both."""
    return {seed: value - other[seed] for seed, value in own.items() if seed in other}


def seeds_per_method(result: SweepResult, metric: str | None = None) -> dict[str, list[int]]:
    """The seeds of every method (of a metric, or of any), ascending."""
    found: dict[str, set[int]] = {method: set() for method in result.methods}
    for row in result.rows:
        if metric in (None, row.metric):
            found[row.method].add(row.seed)
    return {method: sorted(seeds) for method, seeds in found.items()}


def split_key(key: str) -> tuple[str, str]:
    """A key of per-sample statistics as ``("seed<k>/" or "", "<method>/<combination>/<statistic>")``."""
    found = re.fullmatch(r"(seed-?\d+/)([^/]+/[^/]+/.+)", key)
    return (found[1], found[2]) if found else ("", key)


def keys_with_seed(result: SweepResult) -> dict[str, str]:
    """Key of per-sample statistics to the same key that begins with its seed.

    Statistics whose seed cannot be told (a method of several seeds without it in the key) are left out.
    """
    seeds = seeds_per_method(result)
    found: dict[str, str] = {}
    for key in result.samples:
        seed, rest = split_key(key)
        own = seeds.get(rest.split("/")[0], [])
        if seed:
            found[key] = key
        elif "/" in rest and len(own) == 1:
            found[key] = f"seed{own[0]}/{rest}"
    return found
