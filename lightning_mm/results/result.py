"""The result of a sweep: one row per figure, and what is read off them (mean, worst, full, drop, recovered gap)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import SEPARATOR, Modalities
from lightning_mm.results import robustness
from lightning_mm.results import seeds as by_seed
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.robustness import Direction

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ZERO_FILL = "zero_fill"
"""The method whose absent inputs are filled and nothing else: the lower end of the recovered gap."""
ADAPTED = "adapted"
"""The method with adapters switched on."""
DEDICATED = "dedicated"
"""Networks trained for one combination each: the upper end of the recovered gap."""


@dataclass(frozen=True)
class SweepRow:
    """One figure: a metric of a method on a combination; ``value`` is a fraction, ``low`` and ``high`` its interval."""

    method: str
    combination: str
    n_available: int
    metric: str
    value: float
    n: int
    seed: int
    low: float | None = None
    high: float | None = None


@dataclass
class SweepResult:
    """All figures of a sweep, or of several merged ones.

    Args:
        rows: One per (method, combination, metric, seed).
        modalities: Names in the fixed order; the combination of all of them is the full one.
        primary_metric: What tables and plots show unless told otherwise.
        directions: Metric to ``"max"`` or ``"min"``; ``"max"`` where not given.
        parameters: Method to counts such as ``{"trained": 4000, "per_combination": 700, "base": 1000000}``.
        config: The configuration of the run, plain types; written to ``sweep.json``.
        samples: Per-sample statistics, written to ``sweep_samples.npz``.
        bootstrap: Replicates of all figures, where intervals were asked for.
        seconds: Method to the CPU seconds of training of all of its networks together; with several seeds their mean.
        notes: Sentences that a reader of the table must know, e.g. ``"bn_refit: the network has no BatchNorm"``.
    """

    rows: list[SweepRow]
    modalities: list[str]
    primary_metric: str
    directions: dict[str, Direction] = field(default_factory=dict)
    parameters: dict[str, dict[str, int]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, NDArray[Any]] = field(default_factory=dict)
    bootstrap: Bootstrap | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def methods(self) -> list[str]:
        """Methods in the order in which they came."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def metrics(self) -> list[str]:
        """Metrics, the primary one first."""
        return list(dict.fromkeys([self.primary_metric, *(row.metric for row in self.rows)]))

    @property
    def combinations(self) -> list[str]:
        """Combinations that some method was run on, sizes ascending."""
        return list(Modalities(self.modalities).select(list(dict.fromkeys(row.combination for row in self.rows))))

    @property
    def incomplete(self) -> list[str]:
        """Combinations but the full one."""
        return [combination for combination in self.combinations if combination != self.full_combination]

    @property
    def full_combination(self) -> str:
        """The combination of all modalities."""
        return SEPARATOR.join(self.modalities)

    def direction(self, metric: str) -> Direction:
        """Whether more (``"max"``) or less of a metric is better."""
        return self.directions.get(metric, "max")

    def select(self, method: str, combination: str, metric: str) -> list[SweepRow]:
        """The rows of one figure, one per seed; empty where the method was not run on the combination."""
        key = (method, combination, metric)
        return [row for row in self.rows if (row.method, row.combination, row.metric) == key]

    def values(self, method: str, metric: str | None = None) -> dict[str, float]:
        """Combination to value (mean over the seeds that have it) of every combination the method was run on."""
        metric = metric or self.primary_metric
        found: dict[str, list[float]] = {}
        for row in self.rows:
            if row.method == method and row.metric == metric:
                found.setdefault(row.combination, []).append(row.value)
        order = Modalities(self.modalities).select(list(found)) if found else ()
        return {name: float(np.mean(found[name])) for name in order if name in found}

    def value(self, method: str, combination: str, metric: str | None = None) -> float:
        """One figure, the mean over seeds.

        Raises:
            LightningMMError: If the sweep holds no such figure; the message says what it holds.
        """
        metric = metric or self.primary_metric
        values = self.values(method, metric)
        combination = Modalities(self.modalities).canonical(combination)
        if combination not in values:
            raise LightningMMError(
                f"no figure for method {method!r}, combination {combination!r}, metric {metric!r}; this sweep has "
                f"methods {self.methods}, metrics {self.metrics}, and for this method {list(values)}"
            )
        return values[combination]

    def std(self, method: str, combination: str, metric: str | None = None) -> float:
        """Standard deviation over seeds (n - 1); NaN for a single seed."""
        return by_seed.spread(row.value for row in self.select(method, combination, metric or self.primary_metric))

    def seeds(self, method: str, metric: str | None = None) -> list[int]:
        """The seeds of a method, ascending."""
        return list(by_seed.values_per_seed(self, method, metric or self.primary_metric))

    @property
    def several_seeds(self) -> bool:
        """Whether some method was run with more than one seed; standard deviations then stand for intervals."""
        return any(len(own) > 1 for own in by_seed.seeds_per_method(self).values())

    def require_metric(self, metric: str | None = None) -> str:
        """The metric, or the primary one for ``None``.

        Raises:
            LightningMMError: If the sweep has no figure of it; the message says of which it has.
        """
        chosen, known = metric or self.primary_metric, {row.metric for row in self.rows}
        if chosen not in known:
            found = [one for one in self.metrics if one in known]
            raise LightningMMError(f"no figures of metric {chosen!r}; this sweep has {found}")
        return chosen

    def complete_values(self, method: str, metric: str | None = None) -> dict[str, float]:
        """As :meth:`values`, but over the seeds that have all that the method has in any seed, where there are any.

        What :meth:`worst`, :meth:`full`, :meth:`drop` and :meth:`curve` are read off.
        """
        values = by_seed.values_per_seed(self, method, metric or self.primary_metric)
        names = {name for own in values.values() for name in own}
        return by_seed.averages(values, [name for name in self.combinations if name in names])

    def _complete_std(self, method: str, combination: str, metric: str | None) -> float:
        """Standard deviation of one of the :meth:`complete_values` over seeds."""
        values = by_seed.values_per_seed(self, method, metric or self.primary_metric)
        lacks = by_seed.lacking(values)
        seeds = [seed for seed in values if seed not in lacks] or list(values)
        return by_seed.spread(values[seed][combination] for seed in seeds if combination in values[seed])

    def full(self, method: str, metric: str | None = None) -> float:
        """Value on the full combination, see :meth:`complete_values`; NaN where the method was not run on it."""
        return self.complete_values(method, metric).get(self.full_combination, float("nan"))

    def mean(self, method: str, metric: str | None = None, combinations: Iterable[str] | None = None) -> float:
        """Mean over the incomplete combinations (or the given ones); NaN where the method lacks one of them.

        Of several seeds those count that have all of these combinations (see :meth:`mean_per_seed`), where any has.
        """
        return self._mean(method, metric, self.incomplete if combinations is None else combinations, None)

    def _mean(self, method: str, metric: str | None, combinations: Iterable[str], seeds: Sequence[int] | None) -> float:
        values, wanted = by_seed.values_per_seed(self, method, metric or self.primary_metric), list(combinations)
        return robustness.mean_over(by_seed.averages(values, wanted, seeds), wanted)

    def mean_per_seed(
        self, method: str, metric: str | None = None, combinations: Iterable[str] | None = None
    ) -> dict[int, float]:
        """Seed to :meth:`mean`; seeds in which the method lacks one of the combinations are left out."""
        values = by_seed.values_per_seed(self, method, metric or self.primary_metric)
        return by_seed.mean_per_seed(values, self.incomplete if combinations is None else combinations)

    def mean_std(self, method: str, metric: str | None = None, combinations: Iterable[str] | None = None) -> float:
        """Standard deviation of :meth:`mean` over seeds (n - 1); NaN for a single seed."""
        return by_seed.spread(self.mean_per_seed(method, metric, combinations).values())

    def full_std(self, method: str, metric: str | None = None) -> float:
        """Standard deviation of :meth:`full` over the same seeds."""
        return self._complete_std(method, self.full_combination, metric)

    def worst_std(self, method: str, metric: str | None = None) -> float:
        """Standard deviation over seeds of the combination that :meth:`worst` names, the worst of the mean."""
        return self._complete_std(method, self.worst(method, metric)[0], metric)

    def drop_std(self, method: str, metric: str | None = None) -> float:
        """Standard deviation of :meth:`drop` over seeds, each with its own full combination."""
        full = self.mean_per_seed(method, metric, [self.full_combination])
        return by_seed.spread(by_seed.differences(full, self.mean_per_seed(method, metric)).values())

    def worst(self, method: str, metric: str | None = None) -> tuple[str, float]:
        """The worst combination and its value; NaN where the method lacks a combination."""
        values = self.complete_values(method, metric)
        if any(combination not in values for combination in self.incomplete):
            return "", float("nan")
        return robustness.worst_of(values, self.direction(metric or self.primary_metric))

    def drop(self, method: str, metric: str | None = None) -> float:
        """What is lost on the mean over incomplete combinations against the method's own full one in the same seeds."""
        metric = metric or self.primary_metric
        mean = robustness.mean_over(self.complete_values(method, metric), self.incomplete)
        return robustness.drop(self.full(method, metric), mean, self.direction(metric))

    def dedicated_combinations(self, metric: str | None = None) -> list[str]:
        """Incomplete combinations for which a dedicated network was swept."""
        values = self.values(DEDICATED, metric)
        return [combination for combination in self.incomplete if combination in values]

    def recovered_gap(self, method: str, metric: str | None = None) -> float:
        """(method - zero_fill) / (dedicated - zero_fill) on the mean where a dedicated network exists.

        NaN where there is no dedicated network or no zero_fill, and where dedicated networks are not better than
        zero_fill. With several seeds it is the gap of the means over the seeds that all three share (see
        :meth:`shared_seeds`), not the mean of the gaps: a seed with hardly any gap would outweigh all others.
        """
        return robustness.recovered_gap(*self.gap_means(method, metric), self.direction(metric or self.primary_metric))

    def gap_means(self, method: str, metric: str | None = None) -> tuple[float, float, float]:
        """Means of the method, zero_fill and dedicated that :meth:`recovered_gap` compares."""
        covered = self.dedicated_combinations(metric)
        seeds = self.shared_seeds([method, ZERO_FILL, DEDICATED], metric, covered)
        own, low, high = (self._mean(name, metric, covered, seeds) for name in (method, ZERO_FILL, DEDICATED))
        return own, low, high

    def gain(self, method: str, other: str = ZERO_FILL, metric: str | None = None) -> float:
        """How much better the mean over incomplete combinations is than that of another method in the shared seeds.

        Positive is better, whichever way the metric points.
        """
        seeds = self.shared_seeds([method, other], metric)
        own, theirs = (self._mean(name, metric, self.incomplete, seeds) for name in (method, other))
        return robustness.gain(own, theirs, self.direction(metric or self.primary_metric))

    def shared_seeds(
        self, methods: Sequence[str], metric: str | None = None, combinations: Iterable[str] | None = None
    ) -> list[int]:
        """The seeds in which all methods have all incomplete (or the given) combinations; empty where there are none.

        A constant (see :func:`lightning_mm.sweep.constant_rows`) stands for every seed.
        """
        metric, wanted = metric or self.primary_metric, self.incomplete if combinations is None else combinations
        # Zero fill and dedicated are networks, however equal their figures are.
        depend = [m for m in methods if m in (ZERO_FILL, DEDICATED) or not by_seed.is_constant(self, m, metric)]
        return by_seed.shared([by_seed.values_per_seed(self, name, metric) for name in depend], wanted)

    def recovered_gap_per_seed(self, method: str, metric: str | None = None) -> dict[int, float]:
        """Seed to recovered gap, each with its own zero_fill and dedicated; seeds without one of them are left out."""
        covered = self.dedicated_combinations(metric)
        own, low, high = (self.mean_per_seed(name, metric, covered) for name in (method, ZERO_FILL, DEDICATED))
        return by_seed.gap_per_seed(own, low, high, self.direction(metric or self.primary_metric))

    def recovered_gap_std(self, method: str, metric: str | None = None) -> float:
        """Standard deviation of :meth:`recovered_gap_per_seed`; large where a seed has hardly any gap."""
        return by_seed.spread(self.recovered_gap_per_seed(method, metric).values())

    def curve(self, method: str, metric: str | None = None) -> NDArray[np.float64]:
        """Mean value by the number of missing modalities, ``Float[M]``, from none missing to all but one."""
        modalities = Modalities(self.modalities)
        sizes = {combination: len(modalities.parse(combination)) for combination in modalities.combinations()}
        return robustness.missing_curve(self.complete_values(method, metric), sizes)

    def robustness(self, method: str, metric: str | None = None) -> float:
        """Area under :meth:`curve` over its length, in the unit of the metric; needs all combinations."""
        curve = self.curve(method, metric)
        if len(curve) == 1:
            return float(curve[0])
        return robustness.relative_robustness(curve, step=1 / (len(curve) - 1))

    def interval(self, method: str, combination: str, metric: str | None = None) -> tuple[float, float] | None:
        """Interval of one figure; ``None`` without one, or with several seeds (their spread is :meth:`std`)."""
        rows = self.select(method, combination, metric or self.primary_metric)
        if len(rows) != 1 or rows[0].low is None or rows[0].high is None:
            return None
        return rows[0].low, rows[0].high

    def mean_interval(
        self, method: str, metric: str | None = None, combinations: Sequence[str] | None = None
    ) -> tuple[float, float] | None:
        """Interval of :meth:`mean`, from the joint resampling of all combinations."""
        chosen = self.incomplete if combinations is None else combinations
        if self.bootstrap is None:
            return None
        return self.bootstrap.mean_interval(method, metric or self.primary_metric, chosen)

    def summary(self, method: str, metric: str | None = None) -> dict[str, Any]:
        """What ``sweep.json`` says of a method; see :func:`lightning_mm.results.summary.summarise`."""
        from lightning_mm.results.summary import summarise

        return summarise(self, method, metric or self.primary_metric)

    def renamed(self, names: dict[str, str]) -> SweepResult:
        """The same result with methods renamed, e.g. ``{"adapted": "adapted_on_dropout"}``."""
        return replace(
            self,
            rows=[replace(row, method=names.get(row.method, row.method)) for row in self.rows],
            parameters={names.get(method, method): counts for method, counts in self.parameters.items()},
            seconds={names.get(method, method): seconds for method, seconds in self.seconds.items()},
            samples={_renamed_key(key, names): values for key, values in self.samples.items()},
            bootstrap=self.bootstrap
            and replace(
                self.bootstrap,
                replicates={(names.get(m, m), c, k): v for (m, c, k), v in self.bootstrap.replicates.items()},
            ),
        )

    def to_csv(self, path: str | Path) -> Path:
        """Write the rows, fsynced; see :func:`lightning_mm.results.files.write_csv`."""
        from lightning_mm.results.files import write_csv

        return write_csv(self, Path(path))

    @staticmethod
    def from_csv(path: str | Path) -> SweepResult:
        """Read a ``sweep.csv``; ``sweep.json`` and ``sweep_samples.npz`` are used where they lie beside it."""
        from lightning_mm.results.files import read_csv

        return read_csv(Path(path))

    def to_json(self, path: str | Path, *, timestamp: bool = True) -> Path:
        """Write configuration, versions and summaries."""
        from lightning_mm.results.files import write_json

        return write_json(self, Path(path), timestamp=timestamp)

    def to_png(self, path: str | Path) -> Path:
        """Write the heat map of the primary metric."""
        from lightning_mm.results.heat_map import write_heat_map

        return write_heat_map(self, path)

    def save(self, folder: str | Path, *, timestamp: bool = True) -> dict[str, Path]:
        """Write ``sweep.csv`` (first, fsynced), ``.json``, ``_samples.npz``, ``.md`` and ``.png`` into a folder.

        Without the ``timestamp`` equal results make equal bytes, whenever and however often they are saved.
        """
        from lightning_mm.results.files import save

        return save(self, Path(folder), timestamp=timestamp)

    def table(self, metric: str | None = None, *, compact: bool = False) -> Table:
        """The table for a terminal; ``compact`` leaves the intervals out."""
        from lightning_mm.results.terminal import rich_table

        return rich_table(self, metric, compact=compact)

    def print(self, metric: str | None = None, console: Console | None = None) -> None:
        """Print the table as detailed as the terminal is wide; above it a summary if there are many methods."""
        from lightning_mm.results.terminal import print_table

        print_table(self, metric, console)

    def to_markdown(self, metric: str | None = None) -> str:
        """The table as Markdown."""
        from lightning_mm.results.tables import markdown

        return markdown(self, metric)


def _renamed_key(key: str, names: dict[str, str]) -> str:
    """A key of :attr:`SweepResult.samples` with another method; keys without a method stay."""
    seed, rest = by_seed.split_key(key)
    method, *others = rest.split("/")
    return seed + "/".join([names.get(method, method), *others]) if others else key
