"""The result of a sweep as plain data; figures are read off it by :class:`lightning_mm.results.figures.Figures`.

Reading, writing, drawing and merging are functions of :mod:`lightning_mm.results`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import ModalityNames
from lightning_mm.provenance import DataFingerprint
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.figures import Figures, shared_seeds
from lightning_mm.results.moved import FormerMethods
from lightning_mm.results.robustness import Direction
from lightning_mm.results.rows import DEDICATED, ZERO_FILL, SweepRow
from lightning_mm.results.shards.shard import Shard


@dataclass
class SweepResult(FormerMethods):
    """All figures of a sweep, or of several merged ones.

    Methods that take a ``metric`` use the primary one by default.

    Args:
        rows: One per (method, combination, metric, seed).
        modalities: Names in the fixed order; the combination of all of them is the full one.
        primary_metric: What tables and plots show by default.
        directions: Metric to ``"max"`` or ``"min"``; ``"max"`` if missing.
        parameters: Method to counts such as ``{"trained": 4000, "per_combination": 700, "base": 1000000}``.
        config: The configuration of the run, plain types; written to ``sweep.json``.
        samples: Per-sample statistics, written to ``sweep_samples.npz``.
        bootstrap: Replicates of all figures, if intervals were asked for.
        seconds: Method to the CPU seconds of training all of its networks; with several seeds their mean.
        notes: Sentences that a reader of the table must know, e.g. ``"bn_refit: the network has no BatchNorm"``.
        inference: Method to what one prediction takes: ``flops``, operations of matrix products, convolutions and
            attention; ``memory``, bytes of tensors that are alive at once, without weights and inputs.
        inference_seconds: Method to seconds of the prediction of a single sample.
        data_fingerprint: Digests of the samples of the split; ``None`` for results of older releases.
        networks: Method to the fingerprints of its networks, base and adapter: sweeps of one network on other
            combinations have the same costs, which count once. Empty for results of older releases.
        shard: Which part of a sweep this is; ``None`` for a whole one.
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
    inference: dict[str, dict[str, int]] = field(default_factory=dict)
    inference_seconds: dict[str, float] = field(default_factory=dict)
    data_fingerprint: DataFingerprint | None = None
    networks: dict[str, list[str]] = field(default_factory=dict)
    shard: Shard | None = None

    @property
    def methods(self) -> list[str]:
        """Methods in the order of their first row."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def metrics(self) -> list[str]:
        """Metrics, the primary one first."""
        return list(dict.fromkeys([self.primary_metric, *(row.metric for row in self.rows)]))

    @property
    def combinations(self) -> list[str]:
        """Combinations that some method was run on, sizes ascending."""
        return list(ModalityNames(self.modalities).select(list(dict.fromkeys(row.combination for row in self.rows))))

    @property
    def incomplete(self) -> list[str]:
        """Combinations except the full one."""
        return [combination for combination in self.combinations if combination != self.full_combination]

    @property
    def full_combination(self) -> str:
        """The combination of all modalities."""
        return ModalityNames(self.modalities).full

    @property
    def several_seeds(self) -> bool:
        """Whether some method has more than one seed; tables then show standard deviations instead of intervals."""
        return len({(row.method, row.seed) for row in self.rows}) > len(self.methods)

    def direction(self, metric: str) -> Direction:
        """Whether more (``"max"``) or less of a metric is better."""
        return self.directions.get(metric, "max")

    def require_metric(self, metric: str | None = None) -> str:
        """The metric, or the primary one for ``None``.

        Raises:
            LightningMMError: If the sweep has no figure of it; the message lists the metrics it has.
        """
        chosen, known = metric or self.primary_metric, {row.metric for row in self.rows}
        if chosen not in known:
            found = [one for one in self.metrics if one in known]
            raise LightningMMError(f"no figures of metric {chosen!r}; this sweep has {found}")
        return chosen

    def select(self, method: str, combination: str, metric: str) -> list[SweepRow]:
        """The rows of one figure, one per seed; empty if the method was not run on the combination."""
        key = (method, combination, metric)
        return [row for row in self.rows if (row.method, row.combination, row.metric) == key]

    def figures(self, method: str, metric: str | None = None) -> Figures:
        """The figures of a method, each with value, standard deviation and interval."""
        chosen = metric or self.primary_metric
        return Figures(
            self.rows, ModalityNames(self.modalities), method, chosen, self.direction(chosen), self.bootstrap
        )

    def values(self, method: str, metric: str | None = None) -> dict[str, float]:
        """Combination to value (mean over the seeds that have it), for every combination of the method."""
        figures = self.figures(method, metric)
        found = {combination: figures.of(combination) for combination in self.combinations}
        return {combination: figure.value for combination, figure in found.items() if figure.seeds}

    def value(self, method: str, combination: str, metric: str | None = None) -> float:
        """One figure, the mean over seeds.

        Raises:
            LightningMMError: If the sweep has no such figure; the message lists what it has.
        """
        figure = self.figures(method, metric).of(combination)
        if not figure.seeds:
            combination = ModalityNames(self.modalities).canonical(combination)
            raise LightningMMError(
                f"no figure for method {method!r}, combination {combination!r}, metric "
                f"{metric or self.primary_metric!r}; this sweep has methods {self.methods}, metrics {self.metrics}, "
                f"and for this method {list(self.values(method, metric))}"
            )
        return figure.value

    def std(self, method: str, combination: str, metric: str | None = None) -> float:
        """Standard deviation of :meth:`value` over seeds (n - 1); NaN for a single seed."""
        return self.figures(method, metric).of(combination).std

    def interval(self, method: str, combination: str, metric: str | None = None) -> tuple[float, float] | None:
        """Interval of :meth:`value`; ``None`` without one, or with several seeds."""
        return self.figures(method, metric).of(combination).interval

    def seeds(self, method: str, metric: str | None = None) -> list[int]:
        """The seeds of a method, ascending."""
        return list(self.figures(method, metric).values)

    def mean(self, method: str, metric: str | None = None, combinations: Iterable[str] | None = None) -> float:
        """Mean over the incomplete (or the given) combinations; NaN if the method lacks one of them."""
        return self.figures(method, metric).mean(combinations).value

    def worst(self, method: str, metric: str | None = None) -> tuple[str, float]:
        """The worst combination and its value; NaN if the method lacks a combination."""
        figures = self.figures(method, metric)
        return figures.worst_combination, figures.worst().value

    def full(self, method: str, metric: str | None = None) -> float:
        """Value on the full combination; NaN if the method was not run on it."""
        return self.figures(method, metric).full().value

    def drop(self, method: str, metric: str | None = None) -> float:
        """Loss of the mean over incomplete combinations against the method's full one."""
        return self.figures(method, metric).drop().value

    def gain(self, method: str, other: str = ZERO_FILL, metric: str | None = None) -> float:
        """How much better the mean is than that of another method; positive is better in either direction."""
        return self.figures(method, metric).gain(other).value

    def recovered_gap(self, method: str, metric: str | None = None) -> float:
        """(method - zero_fill) / (dedicated - zero_fill) on the mean over combinations with a dedicated network."""
        return self.figures(method, metric).recovered_gap().value

    def curve(self, method: str, metric: str | None = None) -> NDArray[np.float64]:
        """Mean value by the number of missing modalities, ``Float[M]``, from none missing to all but one."""
        return np.array([point.value for point in self.figures(method, metric).curve()])

    def robustness(self, method: str, metric: str | None = None) -> float:
        """Area under :meth:`curve` over its length, in the unit of the metric; needs all combinations."""
        return self.figures(method, metric).robustness().value

    def summary(self, method: str, metric: str | None = None) -> dict[str, Any]:
        """What ``sweep.json`` says of a method."""
        return self.figures(method, metric).summary()

    def dedicated_combinations(self, metric: str | None = None) -> list[str]:
        """Incomplete combinations for which a dedicated network was swept."""
        return self.figures(DEDICATED, metric).covered

    def shared_seeds(
        self, methods: Sequence[str], metric: str | None = None, combinations: Iterable[str] | None = None
    ) -> list[int]:
        """The seeds in which all methods have all incomplete (or the given) combinations."""
        wanted = self.incomplete if combinations is None else combinations
        return shared_seeds([self.figures(method, metric) for method in methods], wanted)
