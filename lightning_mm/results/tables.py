"""A sweep as a table: combinations down, methods across, and what matters at the foot.

With many methods the foot becomes a table of its own, methods down, that stands above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning_mm.modalities import Modalities
from lightning_mm.results.notes import gap_notes, incomplete_seeds
from lightning_mm.results.result import DEDICATED, ZERO_FILL, SweepResult
from lightning_mm.results.seeds import seeds_per_method
from lightning_mm.results.texts import (
    NOTHING,
    best_positions,
    duration,
    is_percent,
    per_combination,
    trained,
    with_spread,
)

PRESENT, ABSENT = "●", "○"
MANY = 4
"""A table of more methods than this is headed by the summary, one row per method."""


@dataclass(frozen=True)
class Foot:
    """One figure of all methods: a row at the foot of the table, a column of the summary.

    Args:
        label: What it is.
        cells: One per method.
        best: Positions of the best methods; empty where that is no question.
    """

    label: str
    cells: list[str]
    best: set[int]


@dataclass(frozen=True)
class Sheet:
    """The text of a table, before it is drawn in a terminal or in Markdown.

    Args:
        title: What the values are.
        modalities: One column of dots each.
        methods: One column of values each.
        body: One per combination: flags of modalities, cells of methods, number of samples, positions of the best.
        foot: What is known of the methods over all combinations.
        notes: What a reader must know, one sentence each.
    """

    title: str
    modalities: list[str]
    methods: list[str]
    body: list[tuple[list[bool], list[str], str, set[int]]]
    foot: list[Foot]
    notes: list[str]

    @property
    def many(self) -> bool:
        """Whether the summary is worth a table of its own."""
        return len(self.methods) > MANY


Show = Callable[[float, tuple[float, float] | None, float], str]
"""Writes a value, its interval and its standard deviation in the unit of the metric."""


def sheet(result: SweepResult, metric: str | None = None, *, intervals: bool = True) -> Sheet:
    """Lay out a result; values of metrics in which more is better and all lie in [-1, 1] are shown in percent.

    Several seeds are shown as mean ± standard deviation, and then no intervals.

    Raises:
        LightningMMError: If the result has no figure of the metric.
    """
    metric = result.require_metric(metric)
    methods = result.methods
    known = [row for row in result.rows if row.metric == metric]
    percent, direction = is_percent(result, metric), result.direction(metric)
    seeds = seeds_per_method(result, metric)
    several_seeds = any(len(own) > 1 for own in seeds.values())
    intervals = intervals and not several_seeds

    def show(value: float, interval: tuple[float, float] | None, std: float) -> str:
        return with_spread(value, percent, interval if intervals else None, std)

    modalities = Modalities(result.modalities)
    by_method = {method: result.values(method, metric) for method in methods}
    body = []
    for combination in result.combinations:
        here = [by_method[method].get(combination, math.nan) for method in methods]
        cells = [
            show(value, result.interval(method, combination, metric), result.std(method, combination, metric))
            for method, value in zip(methods, here)
        ]
        counts = sorted({row.n for row in known if row.combination == combination})
        flags = modalities.mask(combination).tolist()
        body.append((flags, cells, "/".join(map(str, counts)), best_positions(here, direction)))

    foot, notes = _figures(result, metric, show, percent)
    costs, cost_notes = _costs(result, several_seeds)
    notes += cost_notes
    if several_seeds:
        most = max(len(own) for own in seeds.values())
        fewer = [f"{method} ({len(own)})" for method, own in seeds.items() if len(own) < most]
        notes.append(f"±: standard deviation over {most} seeds{'; fewer for ' if fewer else ''}{', '.join(fewer)}")
    elif intervals and any(row.low is not None for row in known):
        level = result.bootstrap.level if result.bootstrap else 0.95
        notes.append(f"[low, high]: {level:.0%} bootstrap interval over samples")
    notes += incomplete_seeds(result, metric)
    title = f"{metric} in %" if percent else metric
    return Sheet(title, list(modalities), methods, body, [*foot, *costs], [*notes, *result.notes])


def _figures(result: SweepResult, metric: str, show: Show, percent: bool) -> tuple[list[Foot], list[str]]:
    """Mean, worst, full, drop and recovered gap of all methods, and what these words mean."""
    methods, direction, full = result.methods, result.direction(metric), result.full_combination

    def foot(label: str, values: list[float], cells: list[str]) -> Foot:
        return Foot(label, cells, best_positions(values, direction))

    def mean(label: str, over: list[str]) -> Foot:
        values = [result.mean(m, metric, over) for m in methods]
        cells = [
            show(value, result.mean_interval(m, metric, over), result.mean_std(m, metric, over))
            for m, value in zip(methods, values)
        ]
        return foot(label, values, cells)

    worst = [result.worst(m, metric)[1] for m in methods]
    whole = [result.full(m, metric) for m in methods]
    found = [
        mean("mean", result.incomplete),
        foot("worst", worst, [show(v, None, result.worst_std(m, metric)) for m, v in zip(methods, worst)]),
        foot(
            "full",
            whole,
            [show(v, result.interval(m, full, metric), result.full_std(m, metric)) for m, v in zip(methods, whole)],
        ),
        Foot("drop", [show(result.drop(m, metric), None, result.drop_std(m, metric)) for m in methods], set()),
    ]
    lost = "full minus mean" if direction == "max" else "mean minus full"
    notes = [f"mean: over incomplete combinations; worst: over all; drop: {lost}"]
    covered = result.dedicated_combinations(metric)
    if covered and covered != result.incomplete:
        found.append(mean(f"mean of {len(covered)}", covered))
        notes.append(f"mean of {len(covered)}: over the combinations that have a dedicated network")
    if covered and ZERO_FILL in methods:
        gaps = [
            NOTHING
            if m in (ZERO_FILL, DEDICATED)
            else with_spread(result.recovered_gap(m, metric), True, None, result.recovered_gap_std(m, metric), "%")
            for m in methods
        ]
        found.append(Foot("recovered gap", gaps, set()))
        notes.append("recovered gap: (method - zero_fill) / (dedicated - zero_fill) on these means")
        notes += gap_notes(result, metric)
    return found, notes


def _costs(result: SweepResult, several_seeds: bool) -> tuple[list[Foot], list[str]]:
    """Parameters and seconds of all methods, where some are known."""
    methods, found, notes = result.methods, [], []
    if result.parameters:
        counts = [result.parameters.get(method, {}) for method in methods]
        found.append(Foot("trained", [trained(own) for own in counts], set()))
        if any("per_combination" in own for own in counts):
            found.append(Foot("per combination", [per_combination(own) for own in counts], set()))
            notes.append("per combination: parameters that one combination adds, and their share of the network")
    if result.seconds:
        times = [duration(result.seconds.get(method, math.nan)) for method in methods]
        found.append(Foot("training", times, set()))
        over = ", mean over seeds" if several_seeds else ""
        notes.append(f"training: CPU time of training all networks of a method{over}")
    return found, notes


def markdown(result: SweepResult, metric: str | None = None) -> str:
    """The table as GitHub Markdown, the best method of each row in bold; see :data:`MANY` for many methods."""
    content = sheet(result, metric)
    notes = [f"- {note}" for note in content.notes]
    if not content.many:
        return "\n".join([f"### {content.title}", "", *_markdown_body(content, one_column=False), "", *notes])
    # Intervals of single figures would make a row as wide as a page; those of the means stand in the summary.
    body = _markdown_body(sheet(result, metric, intervals=False), one_column=True)
    summary = _markdown_summary(content)
    legend = f"{PRESENT} available, {ABSENT} absent: {', '.join(content.modalities)}."
    return "\n".join([f"### {content.title}", "", *summary, "", legend, "", *body, "", *notes])


def summary_markdown(result: SweepResult, metric: str | None = None) -> str:
    """What matters of every method as GitHub Markdown: one row per method, the best of each column in bold.

    Columns: mean, worst, full, drop, and, where they are known, recovered gap, trained parameters, CPU time of
    training.
    """
    content = sheet(result, metric)
    notes = [f"- {note}" for note in content.notes]
    return "\n".join([f"### {content.title}", "", *_markdown_summary(content), "", *notes])


def _markdown_summary(content: Sheet) -> list[str]:
    header = ["method", *[foot.label for foot in content.foot]]
    rows = [header, ["---", *["--:"] * len(content.foot)]]
    for position, method in enumerate(content.methods):
        rows.append([method, *[_bold(foot.cells[position], position in foot.best) for foot in content.foot]])
    return _lines(rows)


def _markdown_body(content: Sheet, *, one_column: bool) -> list[str]:
    """Combinations down, methods across; with ``one_column`` the dots stand in one, and the foot is the mean alone."""
    names = [] if one_column else content.modalities
    rows = [["", *names, *content.methods, "n"]]
    rows.append(["---", *[":-:"] * len(names), *["--:"] * (len(content.methods) + 1)])
    for flags, cells, count, best in content.body:
        dots = [PRESENT if flag else ABSENT for flag in flags]
        label = [" ".join(dots)] if one_column else ["full" if all(flags) else "", *dots]
        rows.append([*label, *[_bold(cell, i in best) for i, cell in enumerate(cells)], count])
    for foot in content.foot[:1] if one_column else content.foot:
        rows.append([f"*{foot.label}*", *[""] * len(names), *foot.cells, ""])
    return _lines(rows)


def _bold(cell: str, bold: bool) -> str:
    return f"**{cell}**" if bold else cell


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in rows]
