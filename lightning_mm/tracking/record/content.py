"""The figures of a sweep under the keys that Weights & Biases gets, as plain data; nothing here imports wandb.

Keys:
    ``sweep/<combination>/<metric>`` holds one figure, and so do ``mean``, ``worst``, ``full``, ``drop``,
    ``robustness``, ``recovered_gap`` (and their ``_std``) in place of the combination. ``curve/<metric>`` is the mean
    by ``curve/missing``, the number of missing modalities. ``summary/<name>`` is what a table of runs shows. A record
    of several methods has the method after the first part: ``sweep/<method>/mean/<metric>``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lightning_mm.results.pictures import Picture
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import COLUMNS, ZERO_FILL, SweepRow

SUMMARY = ("mean", "worst", "full", "drop", "robustness", "recovered_gap")
"""Figures of the primary metric in the summary of a run."""
LONG_COLUMNS = (*COLUMNS, "direction")
"""Columns of the long table ``sweep/table``: those of ``sweep.csv``, and whether more (``max``) or less is better."""
OF_OTHERS = ("gain_over_zero_fill", "recovered_gap", "full_unchanged")
"""Figures that compare a method with others of the sweep, so that a further method may change or add them."""
Aggregate = Literal["max", "min", "last"]


@dataclass(frozen=True)
class SweepRecord:
    """What is recorded of some methods and seeds of a sweep.

    Args:
        result: The sweep; figures such as the recovered gap look at all of its methods.
        methods: The methods that are recorded; all by default.
        seed: The only seed that is recorded; all by default.
        pictures: Files of :func:`lightning_mm.results.pictures.write_pictures`.
        heat_map: The file of the heat map.
        charts: Whether the record holds the long table and the charts, which compare methods.
    """

    result: SweepResult
    methods: Sequence[str] = ()
    seed: int | None = None
    pictures: Sequence[Picture] = ()
    heat_map: Path | None = None
    charts: bool = True

    @cached_property
    def seen(self) -> SweepResult:
        """The part of the sweep that figures are computed from: all methods, the seed alone."""
        if self.seed is None:
            return self.result
        rows = [row for row in self.result.rows if row.seed == self.seed]
        several = self.result.several_seeds  # their replicates are those of no seed
        return replace(self.result, rows=rows, bootstrap=None if several else self.result.bootstrap, samples={})

    @cached_property
    def recorded(self) -> list[str]:
        """The methods of the record."""
        return [method for method in self.seen.methods if not self.methods or method in self.methods]

    @property
    def rows(self) -> list[SweepRow]:
        """The rows of the record: one per method, combination, metric and seed."""
        return [row for row in self.seen.rows if row.method in self.recorded]

    def key(self, first: str, method: str, *rest: str) -> str:
        """A key; it names the method if the record has several."""
        return "/".join([first, *([method] if len(self.recorded) > 1 else []), *rest])

    @cached_property
    def figures(self) -> dict[str, float]:
        """All finite figures by key."""
        found: dict[str, float] = {}
        for method, metric, figures in self._by_method_and_metric():
            for name, value in figures.items():
                if isinstance(value, float) and math.isfinite(value):
                    found[self.key("sweep", method, name, metric)] = value
        return found

    @cached_property
    def aggregates(self) -> dict[str, Aggregate]:
        """How W&B sums up each key of :attr:`figures`: the direction of the metric; less of a drop is better."""
        found: dict[str, Aggregate] = {}
        for method, metric, figures in self._by_method_and_metric():
            for name in figures:
                key = self.key("sweep", method, name, metric)
                if key in self.figures:
                    found[key] = _aggregate(name, self.seen.direction(metric))
        return found

    def curve(self) -> list[dict[str, float]]:
        """One line per number of missing modalities, none first; empty without all combinations."""
        lines: list[dict[str, float]] = [{"curve/missing": k} for k in range(len(self.seen.modalities))]
        for method in self.recorded:
            for metric in self.seen.metrics:
                for line, value in zip(lines, self.seen.curve(method, metric)):
                    if math.isfinite(value):
                        line[self.key("curve", method, metric)] = float(value)
                        if metric == self.seen.primary_metric:
                            line[self.key("curve", method, "primary")] = float(value)
        return [line for line in lines if len(line) > 1]

    def table(self) -> list[list[Any]]:
        """The rows of the long table, see :data:`LONG_COLUMNS`; values that are not finite are ``None``."""
        return [
            [*(_cell(getattr(row, column)) for column in COLUMNS), self.seen.direction(row.metric)] for row in self.rows
        ]

    def summary(self) -> dict[str, Any]:
        """What a table of runs shows, by key: figures of the primary metric, parameters and seconds."""
        found: dict[str, Any] = {"summary/metric": self.seen.primary_metric}
        for method in self.recorded:
            figures, counts = self.seen.summary(method), self.seen.parameters.get(method, {})
            own: dict[str, Any] = {name: figures.get(name) for name in SUMMARY}
            own["worst_combination"] = figures.get("worst_combination") or None
            own |= {"parameters": counts.get("trained"), "seconds": self.seen.seconds.get(method)}
            own |= {"parameters_per_combination": counts.get("per_combination"), "parameters_base": counts.get("base")}
            own["full_unchanged"] = full_unchanged(self.seen, method)
            for name, value in own.items():
                if value is not None and _cell(value) is not None:
                    found[self.key("summary", method, name)] = value
        return found

    def of_others(self) -> dict[str, Any]:
        """The part of :attr:`figures` and :meth:`summary` that depends on methods that are not recorded."""
        every = {**self.figures, **self.summary()}
        return (
            {}
            if len(self.recorded) == len(self.seen.methods)
            else {key: value for key, value in every.items() if _depends_on_others(key)}
        )

    def own_figures(self) -> dict[str, float]:
        """The figures that depend on the recorded methods alone."""
        others = self.of_others()
        return {key: value for key, value in self.figures.items() if key not in others}

    def own_summary(self) -> dict[str, Any]:
        """The summary that depends on the recorded methods alone."""
        others = self.of_others()
        return {key: value for key, value in self.summary().items() if key not in others}

    def _by_method_and_metric(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        for method in self.recorded:
            for metric in self.seen.metrics:
                yield method, metric, {**self.seen.summary(method, metric), **self.seen.values(method, metric)}


def full_unchanged(result: SweepResult, method: str) -> float | None:
    """1 if a method has exactly the figures of ``zero_fill`` on the full combination, 0 if not.

    With everything present ``zero_fill`` is the base, which an adapter must not change. ``None`` without a figure of
    both.
    """
    rows = [row for row in result.rows if row.combination == result.full_combination]
    base = {(row.metric, row.seed): row.value for row in rows if row.method == ZERO_FILL}
    ours = {(row.metric, row.seed): row.value for row in rows if row.method == method}
    shared = [(ours[key], base[key]) for key in ours.keys() & base.keys()]
    if not shared:
        return None
    return float(all(own == other or (math.isnan(own) and math.isnan(other)) for own, other in shared))


def _aggregate(name: str, direction: Literal["max", "min"]) -> Aggregate:
    if name.endswith("_std"):
        return "last"
    if name == "drop":
        return "min"
    return "max" if name in ("recovered_gap", "gain_over_zero_fill") else direction


def _depends_on_others(key: str) -> bool:
    """Whether a key such as ``sweep/recovered_gap_std/accuracy`` is of a figure that compares methods."""
    return any(part.startswith(OF_OTHERS) for part in key.split("/")[1:])


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
