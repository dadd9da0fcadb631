"""Figures of one method: value, standard deviation and interval of the same seeds at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from lightning_mm.modality_names import MOST_LISTED, ModalityNames
from lightning_mm.results import robustness
from lightning_mm.results import seeds as by_seed
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.robustness import Direction
from lightning_mm.results.rows import DEDICATED, ZERO_FILL, SweepRow


@dataclass(frozen=True)
class Figure:
    """One figure of a method.

    Args:
        value: The mean over ``seeds``; NaN if the method lacks a combination that the figure needs.
        std: Standard deviation over seeds (n - 1); NaN for a single seed.
        interval: Bootstrap interval over samples, if the sweep has one.
        seeds: The seeds that count; see :mod:`lightning_mm.results.seeds`.
    """

    value: float
    std: float
    interval: tuple[float, float] | None
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Figures:
    """All figures of one method and metric of a sweep.

    Args:
        rows: All rows of the sweep, those of other methods and metrics included.
        modalities: Names in the fixed order.
        method: The method.
        metric: The metric.
        direction: Whether more (``"max"``) or less of the metric is better.
        bootstrap: Replicates of the sweep, if there are any.
    """

    rows: Sequence[SweepRow]
    modalities: ModalityNames
    method: str
    metric: str
    direction: Direction = "max"
    bootstrap: Bootstrap | None = None

    @cached_property
    def values(self) -> dict[int, dict[str, float]]:
        """Seed to combination to value, seeds ascending."""
        found: dict[int, dict[str, float]] = {}
        for row in (row for rows in self._rows.values() for row in rows):
            found.setdefault(row.seed, {})[row.combination] = row.value
        return dict(sorted(found.items()))

    @cached_property
    def combinations(self) -> list[str]:
        """Combinations that some method was run on, sizes ascending."""
        return list(self.modalities.select(list(dict.fromkeys(row.combination for row in self.rows))))

    @cached_property
    def incomplete(self) -> list[str]:
        """Combinations except the full one."""
        return [name for name in self.combinations if name != self.modalities.full]

    @cached_property
    def covered(self) -> list[str]:
        """Incomplete combinations for which a dedicated network was swept."""
        dedicated = {name for own in self._of_method(DEDICATED).values.values() for name in own}
        return [name for name in self.incomplete if name in dedicated]

    @cached_property
    def is_constant(self) -> bool:
        """Whether the method has one value for all combinations, of one seed and without an interval.

        Such a constant (see :func:`lightning_mm.results.constant_rows`) counts for every seed.
        """
        own = [row for rows in self._rows.values() for row in rows]
        same = len({row.value for row in own}) == 1 and len(self.values) == 1
        return same and len(own) == len(self.combinations) > 1 and all(row.low is None for row in own)

    def of(self, combination: str) -> Figure:
        """The figure of one combination, over all seeds that have it."""
        rows = self._rows.get(self.modalities.canonical(combination), [])
        values, interval = [row.value for row in rows], None
        if len(rows) == 1 and rows[0].low is not None and rows[0].high is not None:
            interval = rows[0].low, rows[0].high
        value = float(np.mean(values)) if values else math.nan
        return Figure(value, by_seed.spread(values), interval, tuple(sorted(row.seed for row in rows)))

    def mean(self, combinations: Iterable[str] | None = None) -> Figure:
        """The mean over combinations, all incomplete ones by default."""
        names = self.incomplete if combinations is None else list(combinations)
        interval = self.bootstrap.mean_interval(self.method, self.metric, names) if self.bootstrap else None
        return self._mean(names, by_seed.counting(self.values, names), interval)

    def mean_per_seed(self, combinations: Iterable[str] | None = None) -> dict[int, float]:
        """Seed to its mean over combinations (all incomplete ones by default); incomplete seeds are left out."""
        return by_seed.mean_per_seed(self.values, self.incomplete if combinations is None else combinations)

    def complete_values(self) -> dict[str, float]:
        """Combination to its mean over the seeds that have everything the method has in any seed."""
        return by_seed.averages(self.values, self.combinations, self._complete)

    def full(self) -> Figure:
        """The figure of the full combination, over the seeds of :meth:`complete_values`."""
        name = self.modalities.full
        return self._mean([name], self._complete, self.of(name).interval)

    @cached_property
    def worst_combination(self) -> str:
        """The worst of :meth:`complete_values`; the empty string if the method lacks a combination."""
        values = self.complete_values()
        return "" if set(self.incomplete) - values.keys() else robustness.worst_of(values, self.direction)[0]

    def worst(self) -> Figure:
        """The figure of :attr:`worst_combination`; without an interval, which would not know that it was chosen."""
        return self._mean([self.worst_combination], self._complete)

    def drop(self) -> Figure:
        """Loss of the mean over incomplete combinations against the full one in the same seeds; without an interval."""
        full, mean = self.full(), self._mean(self.incomplete, self._complete)
        full_per_seed = self.mean_per_seed([self.modalities.full])
        value = robustness.drop(full.value, mean.value, self.direction)
        return Figure(value, _spread_of_differences(full_per_seed, self.mean_per_seed()), None, full.seeds)

    def gain(self, other: str = ZERO_FILL) -> Figure:
        """How much better than another method the mean over incomplete combinations is, in the seeds of both.

        Positive is better, in either direction of the metric. If no seed is shared, the means of different seeds are
        compared and ``seeds`` is empty.
        """
        them = self._of_method(other)
        seeds = shared_seeds([self, them], self.incomplete)
        own, theirs = (one._mean_among(self.incomplete, seeds) for one in (self, them))
        value = robustness.gain(own, theirs, self.direction)
        std = _spread_of_differences(self.mean_per_seed(), them.mean_per_seed())
        pair = (self.method, other) if self.direction == "max" else (other, self.method)
        interval = self.bootstrap.difference_interval(*pair, self.metric, self.incomplete) if self.bootstrap else None
        return Figure(value, std, interval, tuple(seeds))

    def recovered_gap(self) -> Figure:
        """(method - zero_fill) / (dedicated - zero_fill) on the mean over :attr:`covered` combinations.

        NaN without dedicated networks or zero_fill, and if dedicated networks are not better than zero_fill. Over
        several seeds it is the gap of the means of the seeds that all three share, not the mean of the gaps: a seed
        with hardly any gap would outweigh all others. If they share no seed, ``seeds`` is empty.
        """
        interval = None
        if self.bootstrap:
            interval = self.bootstrap.recovered_gap_interval(
                self.method, self.metric, self.covered, ZERO_FILL, DEDICATED, self.direction
            )
        value = robustness.recovered_gap(*self.gap_means(), self.direction)
        std = by_seed.spread(self.recovered_gap_per_seed().values())
        return Figure(value, std, interval, tuple(shared_seeds(self._ends, self.covered)))

    def gap_means(self) -> tuple[float, float, float]:
        """The means of the method, zero_fill and dedicated that :meth:`recovered_gap` compares."""
        seeds = shared_seeds(self._ends, self.covered)
        own, low, high = (one._mean_among(self.covered, seeds) for one in self._ends)
        return own, low, high

    def recovered_gap_per_seed(self) -> dict[int, float]:
        """Seed to recovered gap, each with its own zero_fill and dedicated; seeds without one of them are left out."""
        own, low, high = (one.mean_per_seed(self.covered) for one in self._ends)
        gaps = {
            seed: robustness.recovered_gap(own[seed], low[seed], high[seed], self.direction)
            for seed in own
            if seed in low and seed in high
        }
        return {seed: gap for seed, gap in gaps.items() if math.isfinite(gap)}

    def curve(self) -> list[Figure]:
        """The mean by the number of missing modalities, from none missing to all but one; without intervals."""
        return [self._mean(names, self._complete) for names in self._by_missing]

    def robustness(self) -> Figure:
        """Area under :meth:`curve` over its length, in the unit of the metric; needs all combinations."""
        if not self._by_missing:
            return Figure(math.nan, math.nan, None, ())
        value = robustness.area([point.value for point in self.curve()])
        per_seed = [
            robustness.area([robustness.mean_over(self.values[seed], names) for names in self._by_missing])
            for seed in self._complete
        ]
        return Figure(value, by_seed.spread(per_seed), None, tuple(self._complete))

    def summary(self) -> dict[str, Any]:
        """What ``sweep.json`` says of the method, plain types.

        ``<name>_std`` is the standard deviation over ``seeds``, NaN for a single one, ``<name>_interval`` a pair or
        ``None``. The gain over zero_fill and the recovered gap are of the shared seeds ``<name>_seeds``; if that list
        is empty, they compare means of different seeds.
        """
        mean, worst, full, drop = self.mean(), self.worst(), self.full(), self.drop()
        found: dict[str, Any] = {
            "seeds": list(self.values),
            "mean": mean.value,
            "mean_std": mean.std,
            "mean_interval": mean.interval,
            "worst": worst.value,
            "worst_std": worst.std,
            "worst_combination": self.worst_combination,
            "full": full.value,
            "full_std": full.std,
            "drop": drop.value,
            "drop_std": drop.std,
            "robustness": self.robustness().value,
        }
        if self.method == ZERO_FILL or all(row.method != ZERO_FILL for row in self.rows):
            return found
        gain = self.gain()
        found["gain_over_zero_fill"] = gain.value
        found["gain_over_zero_fill_seeds"] = list(gain.seeds)
        found["gain_over_zero_fill_std"] = gain.std
        if self.bootstrap:
            found["gain_over_zero_fill_interval"] = gain.interval
        if self.covered:
            gap = self.recovered_gap()
            found["recovered_gap"] = gap.value
            found["recovered_gap_std"] = gap.std
            found["recovered_gap_over"] = self.covered
            found["recovered_gap_seeds"] = list(gap.seeds)
            found["recovered_gap_interval"] = gap.interval
        return found

    @cached_property
    def _rows(self) -> dict[str, list[SweepRow]]:
        """Combination to the rows of the method and metric, one per seed."""
        found: dict[str, list[SweepRow]] = {}
        for row in self.rows:
            if row.method == self.method and row.metric == self.metric:
                found.setdefault(row.combination, []).append(row)
        return found

    @cached_property
    def _complete(self) -> list[int]:
        """The seeds that have everything the method has in any seed; all, if none has."""
        return by_seed.counting(self.values, {name for own in self.values.values() for name in own})

    @cached_property
    def _by_missing(self) -> list[list[str]]:
        """All combinations, grouped by the number of missing modalities; empty if there are too many to be run."""
        if len(self.modalities) > MOST_LISTED:
            return []
        every = self.modalities.combinations()
        return [list(group) for _, group in groupby(every, lambda name: len(self.modalities.parse(name)))][::-1]

    @cached_property
    def _ends(self) -> tuple[Figures, Figures, Figures]:
        return self, self._of_method(ZERO_FILL), self._of_method(DEDICATED)

    def _of_method(self, method: str) -> Figures:
        return replace(self, method=method)

    def _mean_among(self, names: list[str], seeds: list[int]) -> float:
        """The mean over combinations of those of the seeds that have all of them, if any has."""
        return self._mean(names, by_seed.counting(self.values, names, seeds)).value

    def _mean(self, names: list[str], seeds: list[int], interval: tuple[float, float] | None = None) -> Figure:
        value = robustness.mean_over(by_seed.averages(self.values, names, seeds), names)
        std = by_seed.spread(robustness.mean_over(self.values[seed], names) for seed in seeds)
        return Figure(value, std, interval, tuple(seeds))


def shared_seeds(figures: Iterable[Figures], combinations: Iterable[str]) -> list[int]:
    """The seeds in which all methods have all of the combinations, ascending; a constant has every seed."""
    wanted = list(combinations)
    # Zero fill and dedicated are networks, even if all of their values are equal.
    depend = [one for one in figures if one.method in (ZERO_FILL, DEDICATED) or not one.is_constant]
    found = [set(by_seed.complete(one.values, wanted)) for one in depend]
    return sorted(set.intersection(*found)) if found else []


def _spread_of_differences(own: dict[int, float], other: dict[int, float]) -> float:
    """Standard deviation of ``own - other`` over the seeds of both."""
    return by_seed.spread(value - other[seed] for seed, value in own.items() if seed in other)
