"""A sweep as a table: combinations down, methods across, and a foot with mean, worst, full, drop and recovered gap.

With many methods the foot becomes a summary of its own above the table, with methods down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lightning_mm.modality_names import ModalityNames
from lightning_mm.results.figures import Figure, Figures
from lightning_mm.results.large.groups import groups, is_large
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import DEDICATED, ZERO_FILL
from lightning_mm.results.texts import (
    NOTHING,
    best_positions,
    duration,
    gap_notes,
    incomplete_seeds,
    is_percent,
    markdown_text,
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
        best: Positions of the best methods; empty if none is better than another.
    """

    label: str
    cells: list[str]
    best: set[int]


@dataclass(frozen=True)
class Block:
    """The rows of one number of missing modalities, in the table of a large sweep.

    Args:
        label: Which combinations, and how many there are.
        cells: Their mean, one per method; empty texts for a single combination.
        best: Positions of the methods with the best mean.
        first: Positions of the best combinations in the body.
        hidden: How many are not shown.
        last: Positions of the worst combinations in the body.
    """

    label: str
    cells: list[str]
    best: set[int]
    first: list[int]
    hidden: int
    last: list[int]


@dataclass(frozen=True)
class Sheet:
    """The text of a table, before it is drawn in a terminal or in Markdown.

    Args:
        title: What the values are.
        modalities: One column of dots each.
        methods: One column of values each.
        body: One per combination: flags of modalities, cells of methods, number of samples, positions of the best.
        foot: Figures of the methods over all combinations.
        notes: What a reader must know, one sentence each.
        blocks: How a terminal shows the body of a large sweep; empty if it shows all of it.
    """

    title: str
    modalities: list[str]
    methods: list[str]
    body: list[tuple[list[bool], list[str], str, set[int]]]
    foot: list[Foot]
    notes: list[str]
    blocks: list[Block] = field(default_factory=list)

    @property
    def many(self) -> bool:
        """Whether the summary is worth a table of its own."""
        return len(self.methods) > MANY


Line = Callable[[Iterable[Figure]], tuple[list[str], set[int]]]
"""Turns one figure of each method into cells and the positions of the best."""


def sheet(result: SweepResult, metric: str | None = None, *, intervals: bool = True) -> Sheet:
    """Lay out a result; values of metrics in which more is better and all are in [-1, 1] are shown in percent.

    Several seeds are shown as mean ± standard deviation, and then without intervals.

    Raises:
        LightningMMError: If the result has no figure of the metric.
    """
    metric = result.require_metric(metric)
    known = [row for row in result.rows if row.metric == metric]
    percent = is_percent(result, metric)
    figures = {method: result.figures(method, metric) for method in result.methods}
    seeds = {method: len(own.values) for method, own in figures.items()}
    several_seeds = max(seeds.values()) > 1
    intervals = intervals and not several_seeds

    def line(found: Iterable[Figure]) -> tuple[list[str], set[int]]:
        found = list(found)
        best = best_positions([figure.value for figure in found], result.direction(metric))
        return [with_spread(figure, percent, intervals) for figure in found], best

    names = ModalityNames(result.modalities)
    body = []
    for combination in result.combinations:
        flags = [name in names.parse(combination) for name in names]
        cells, best = line(own.of(combination) for own in figures.values())
        counts = sorted({row.n for row in known if row.combination == combination})
        body.append((flags, cells, "/".join(map(str, counts)), best))

    foot, notes = _foot(result, metric, figures, line)
    costs, cost_notes = _costs(result, several_seeds)
    notes += cost_notes
    if several_seeds:
        most = max(seeds.values())
        fewer = [f"{method} ({count})" for method, count in seeds.items() if count < most]
        notes.append(f"±: standard deviation over {most} seeds{'; fewer for ' if fewer else ''}{', '.join(fewer)}")
    elif intervals and any(row.low is not None for row in known):
        level = result.bootstrap.level if result.bootstrap else 0.95
        notes.append(f"[low, high]: {level:.0%} bootstrap interval over samples")
    notes += incomplete_seeds(figures.values())
    title = f"{metric} in %" if percent else metric
    blocks = []
    if is_large(result):
        place = {combination: position for position, combination in enumerate(result.combinations)}
        for group in groups(result, metric):
            first, last = [place[name] for name in group.best], [place[name] for name in reversed(group.worst)]
            cells, best = line(group.means) if group.size > 1 else ([""] * len(figures), set())
            blocks.append(Block(group.mean_title, cells, best, first, len(group.rest), last))
    return Sheet(title, list(names), list(figures), body, [*foot, *costs], [*notes, *result.notes], blocks)


def _foot(result: SweepResult, metric: str, figures: Mapping[str, Figures], line: Line) -> tuple[list[Foot], list[str]]:
    """Mean, worst, full, drop and recovered gap of all methods, and what these words mean."""
    every = figures.values()
    found = [
        Foot("mean", *line(own.mean() for own in every)),
        Foot("worst", *line(own.worst() for own in every)),
        Foot("full", *line(own.full() for own in every)),
        Foot("drop", line(own.drop() for own in every)[0], set()),
    ]
    lost = "full minus mean" if result.direction(metric) == "max" else "mean minus full"
    notes = [f"mean: over incomplete combinations; worst: over all; drop: {lost}"]
    covered = result.dedicated_combinations(metric)
    if covered and covered != result.incomplete:
        found.append(Foot(f"mean of {len(covered)}", *line(own.mean(covered) for own in every)))
        notes.append(f"mean of {len(covered)}: over the combinations that have a dedicated network")
    if covered and ZERO_FILL in figures:
        gaps = {method: own.recovered_gap() for method, own in figures.items() if method not in (ZERO_FILL, DEDICATED)}
        cells = [with_spread(gaps[method], True, unit="%") if method in gaps else NOTHING for method in figures]
        found.append(Foot("recovered gap", cells, set()))
        notes.append("recovered gap: (method - zero_fill) / (dedicated - zero_fill) on these means")
        notes += gap_notes(figures, gaps)
    return found, notes


def _costs(result: SweepResult, several_seeds: bool) -> tuple[list[Foot], list[str]]:
    """Parameters and training seconds of all methods, if any are known."""
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
    """Write the table as GitHub Markdown, the best method of each row in bold; see :data:`MANY` for many methods."""
    content = sheet(result, metric)
    notes = [f"- {markdown_text(note)}" for note in content.notes]
    if not content.many:
        return "\n".join(
            [f"### {markdown_text(content.title)}", "", *_markdown_body(content, one_column=False), "", *notes]
        )
    # Intervals of single figures would make rows as wide as a page; the summary has those of the means.
    body = _markdown_body(sheet(result, metric, intervals=False), one_column=True)
    summary = _markdown_summary(content)
    legend = f"{PRESENT} available, {ABSENT} absent: {', '.join(map(markdown_text, content.modalities))}."
    return "\n".join([f"### {markdown_text(content.title)}", "", *summary, "", legend, "", *body, "", *notes])


def summary_markdown(result: SweepResult, metric: str | None = None) -> str:
    """Write the summary as GitHub Markdown: one row per method, the best of each column in bold.

    Columns: mean, worst, full, drop, and, if known, recovered gap, trained parameters and CPU time of training.
    """
    content = sheet(result, metric)
    notes = [f"- {markdown_text(note)}" for note in content.notes]
    return "\n".join([f"### {markdown_text(content.title)}", "", *_markdown_summary(content), "", *notes])


def _markdown_summary(content: Sheet) -> list[str]:
    header = ["method", *[foot.label for foot in content.foot]]
    rows = [header, ["---", *["--:"] * len(content.foot)]]
    for position, method in enumerate(content.methods):
        rows.append(
            [markdown_text(method), *[_bold(foot.cells[position], position in foot.best) for foot in content.foot]]
        )
    return _lines(rows)


def _markdown_body(content: Sheet, *, one_column: bool) -> list[str]:
    """Combinations down, methods across; ``one_column`` puts all dots in one column and cuts the foot to the mean."""
    names = [] if one_column else [markdown_text(name) for name in content.modalities]
    rows = [["", *names, *map(markdown_text, content.methods), "n"]]
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
