"""Everything that the page shows of one sweep or study."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from lightning_mm.errors import UsageError
from lightning_mm.report.costs import cost_table
from lightning_mm.report.downloads import KINDS, LABELS, data_uri, file_name, files
from lightning_mm.report.drawing.charts import Chart, Look, cost_charts, drop_chart, looks, missing_chart
from lightning_mm.report.drawing.heat_map import HeatMap, heat_map
from lightning_mm.report.outcomes import LARGE, Outcomes, outcome_table, outcomes
from lightning_mm.report.pictures import Pictures, pictures
from lightning_mm.report.robustness import corruption_table, missing_table, policy_table, robustness_table
from lightning_mm.report.source import Source
from lightning_mm.report.tables import Table, combination_table, curve_table, figures_table, summary_table, title_of
from lightning_mm.report.worth import Worth, worth, worth_per_class
from lightning_mm.results.result import SweepResult
from lightning_mm.results.tables import sheet
from lightning_mm.results.texts import is_percent, number, with_spread
from lightning_mm.settings_files import without_secrets

ROWS = 1500
"""How many rows of ``sweep.csv`` the page shows."""


@dataclass(frozen=True)
class Download:
    """A link to a file inside the page."""

    label: str
    name: str
    uri: str


@dataclass(frozen=True)
class Part:
    """What the page shows of one metric; ``worth`` and charts of the chosen one only."""

    metric: str
    title: str
    heat: HeatMap
    summary: Table
    combinations: Table


@dataclass(frozen=True)
class Section:
    """One sweep or study; ``parts`` begin with the metric that the charts show."""

    name: str
    anchor: str
    facts: list[tuple[str, str]]
    notes: list[str]
    parts: list[Part]
    looks: list[Look]
    drop: Chart | None
    expected: Chart | None
    costs: list[Chart]
    cost_table: Table | None
    curve: Table
    robustness: Table | None
    missing: Table | None
    policies: Table | None
    damaged: Table | None
    worth: Worth
    per_class: Worth
    outcomes: Table | None
    pictures: list[Pictures]
    figures: Table
    config: str
    data: dict[str, Any]
    headline: list[str]

    @property
    def tables(self) -> list[Table]:
        """All tables of the chosen metric, in the order of the page."""
        first = self.parts[0]
        worth = [*self.worth.tables, *self.per_class.tables]
        more = [self.robustness, self.missing, self.policies, self.damaged, self.cost_table, *worth, self.outcomes]
        return [first.summary, first.combinations, self.curve, *(table for table in more if table is not None)]

    def downloads(self, table: Table, metric: str = "") -> list[Download]:
        """The files of a table."""
        name = file_name(self.name, *([metric] if metric else []), table.name)
        return [
            Download(LABELS[end], f"{name}.{end}", data_uri(file, KINDS[end])) for end, file in files(table).items()
        ]


def section(source: Source, position: int, metric: str | None, empty: float | None) -> Section:
    """Compute everything of one source.

    Args:
        source: What to show.
        position: Of the section in the page.
        metric: What charts and importance show; the primary metric by default.
        empty: Its value without any modality, for the importance.

    Raises:
        UsageError: If the source has no such metric.
    """
    result = source.result
    known = {row.metric for row in result.rows}
    metrics = [one for one in result.metrics if one in known]
    if metric is not None and metric not in known:
        raise UsageError(f"--metric: {source.name} has {', '.join(metrics)}; got {metric!r}")
    chosen = metric or metrics[0]
    metrics.sort(key=lambda one: one != chosen)
    # Figures look through all rows; those of other metrics would only take time.
    alone = {one: _of_metric(result, one) for one in metrics}
    parts = [_part(alone[one], one, place) for place, one in enumerate(metrics)]
    own, styles = alone[chosen], looks(alone[chosen], chosen)
    found, worths = outcomes(result), worth(own, chosen, empty)
    return Section(
        name=source.name,
        anchor=f"s{position}",
        facts=source.facts(),
        notes=sheet(own, chosen).notes,
        parts=parts,
        looks=styles,
        drop=drop_chart(own, chosen, styles),
        expected=missing_chart(own, chosen, styles),
        costs=cost_charts(own, chosen, styles),
        cost_table=cost_table(own, chosen),
        curve=curve_table(own, chosen),
        robustness=robustness_table(own, chosen),
        missing=missing_table(own, chosen),
        policies=policy_table(result, chosen),
        damaged=corruption_table(source.csv.parent, result, chosen),
        worth=worths,
        # a value that is given is one of the chosen metric, which those of classes are not
        per_class=worth_per_class(result, worths.methods, None),
        outcomes=outcome_table(result, found) if found else None,
        pictures=pictures(source.csv.parent, result),
        figures=figures_table(result, source.csv.read_bytes(), ROWS),
        config=json.dumps(without_secrets(result.config), indent=1, default=str, ensure_ascii=False)
        if result.config
        else "",
        data=_data(result, metrics, found),
        headline=_headline(own, chosen),
    )


def _of_metric(result: SweepResult, metric: str) -> SweepResult:
    return replace(result, rows=[row for row in result.rows if row.metric == metric], primary_metric=metric)


def _part(result: SweepResult, metric: str, place: int) -> Part:
    content = sheet(result, metric)
    return Part(
        metric,
        title_of(result, metric),
        heat_map(result, metric, place),
        replace(summary_table(result, metric, content), notes=[] if place else content.notes),
        combination_table(result, metric),
    )


def _headline(result: SweepResult, metric: str) -> list[str]:
    """One row of the overview: metric, size, the mean of zero_fill or the first method, and the best mean."""
    percent = is_percent(result, metric)
    means = {method: result.figures(method, metric).mean() for method in result.methods}
    finite = {method: one.value for method, one in means.items() if math.isfinite(one.value)}
    first = "zero_fill" if "zero_fill" in means else result.methods[0]
    sign = 1 if result.direction(metric) == "max" else -1
    best = max(finite, key=lambda method: sign * finite[method], default=first)
    size = f"{len(result.methods)} methods, {len(result.combinations)} combinations"
    texts = [f"{method} {with_spread(means[method], percent)}" for method in (first, best)]
    return [title_of(result, metric), size, *texts]


def _data(result: SweepResult, metrics: list[str], found: Outcomes | None) -> dict[str, Any]:
    """What a click on a cell shows, as plain data: positions of metric, method and combination to figures."""
    methods = {name: position for position, name in enumerate(result.methods)}
    combinations = {name: position for position, name in enumerate(result.combinations)}
    order = {name: position for position, name in enumerate(metrics)}
    percent = {metric: is_percent(result, metric) for metric in metrics}
    figures: dict[str, list[Any]] = {}
    for row in result.rows:
        key = f"{order[row.metric]}.{methods[row.method]}.{combinations[row.combination]}"
        shown = percent[row.metric]
        ends = [number(end, shown) for end in (row.low, row.high) if end is not None]
        figures.setdefault(key, []).append([row.seed, number(row.value, shown), row.n, *ends])
    samples = {}
    if found:
        for (method, combination), cell in found.cells.items():
            if method in methods:
                samples[f"{methods[method]}.{combinations[combination]}"] = cell
    return {
        "metrics": metrics,
        "methods": list(methods),
        "combinations": list(combinations),
        "figures": figures if len(figures) <= 40 * LARGE else {},
        "kind": found.kind if found else None,
        "samples": samples,
    }
