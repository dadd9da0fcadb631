"""Which seeds count for a figure, and their spread.

A seed counts only if the method has every combination of the figure in it, so that neither a mean nor its spread mixes
complete with incomplete seeds; if no seed has all of them, all seeds count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lightning_mm.results.robustness import mean_over

Values = Mapping[int, Mapping[str, float]]
"""Seed to combination to value, seeds ascending."""


def spread(values: Iterable[float]) -> float:
    """Standard deviation (n - 1) of the finite values; NaN for fewer than two."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan


def complete(values: Values, combinations: Iterable[str]) -> list[int]:
    """The seeds that have all of the combinations."""
    wanted = set(combinations)
    return [seed for seed, own in values.items() if wanted <= own.keys()]


def counting(values: Values, combinations: Iterable[str], among: Iterable[int] | None = None) -> list[int]:
    """The seeds that count for a figure of these combinations.

    Args:
        values: What each seed has.
        combinations: What a seed must have to count; if none has all, all seeds count.
        among: Seeds to choose from, if any of them has all; all by default.
    """
    whole = complete(values, combinations)
    allowed = set(whole if among is None else among)
    return [seed for seed in whole if seed in allowed] or whole or list(values)


def lacking(values: Values) -> dict[int, set[str]]:
    """Seed to the combinations that another seed has and it does not; complete seeds are left out."""
    every = {name for own in values.values() for name in own}
    return {seed: every - own.keys() for seed, own in values.items() if every - own.keys()}


def averages(values: Values, combinations: Iterable[str], seeds: Sequence[int]) -> dict[str, float]:
    """Combination to its mean over these seeds; combinations that none of them has are left out."""
    found = {name: [values[seed][name] for seed in seeds if name in values[seed]] for name in combinations}
    return {name: float(np.mean(own)) for name, own in found.items() if own}


def mean_per_seed(values: Values, combinations: Iterable[str]) -> dict[int, float]:
    """Seed to the mean over the combinations, for every seed that has all of them."""
    wanted = list(combinations)
    means = {seed: mean_over(own, wanted) for seed, own in values.items()}
    return {seed: mean for seed, mean in means.items() if math.isfinite(mean)}
