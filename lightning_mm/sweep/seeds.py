"""Figures of every seed by itself, and their spread.

A seed counts for a mean only where the method has every combination of it, so that no spread mixes complete with
incomplete seeds. Standard deviations divide by one less than the number of seeds; of a single seed there is none (NaN).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from lightning_mm.sweep import robustness

if TYPE_CHECKING:
    from lightning_mm.sweep.result import SweepResult

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


def gap_per_seed(own: PerSeed, zero_fill: PerSeed, dedicated: PerSeed) -> PerSeed:
    """The recovered gap of every seed that has all three means and a gap."""
    shared = [seed for seed in own if seed in zero_fill and seed in dedicated]
    gaps = {seed: robustness.recovered_gap(own[seed], zero_fill[seed], dedicated[seed]) for seed in shared}
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
