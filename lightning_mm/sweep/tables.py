"""A sweep as a table: combinations down, methods across, and what matters at the foot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_mm.modalities import Modalities
from lightning_mm.sweep.result import DEDICATED, ZERO_FILL, SweepResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PRESENT, ABSENT, NOTHING = "●", "○", "–"


@dataclass(frozen=True)
class Sheet:
    """The text of a table, before it is drawn in a terminal or in Markdown.

    Args:
        title: What the values are.
        modalities: One column of dots each.
        methods: One column of values each.
        body: One per combination: flags of modalities, cells of methods, number of samples, the best method's position.
        foot: Label to the cells of methods.
        notes: What a reader must know, one sentence each.
    """

    title: str
    modalities: list[str]
    methods: list[str]
    body: list[tuple[list[bool], list[str], str, int | None]]
    foot: list[tuple[str, list[str]]]
    notes: list[str]


def sheet(result: SweepResult, metric: str | None = None, *, intervals: bool = True) -> Sheet:
    """Lay out a result; values of metrics in which more is better and all lie in [-1, 1] are shown in percent."""
    metric = metric or result.primary_metric
    methods, incomplete = result.methods, result.incomplete
    known = [row for row in result.rows if row.metric == metric]
    percent = is_percent(result, metric)
    several_seeds = len({row.seed for row in known}) > 1

    def show(value: float, interval: tuple[float, float] | None = None, std: float = math.nan) -> str:
        text = number(value, percent)
        if not math.isnan(std):
            return f"{text} ± {number(std, percent)}"
        if interval and intervals and text != NOTHING:
            return f"{text} [{number(interval[0], percent)}, {number(interval[1], percent)}]"
        return text

    modalities = Modalities(result.modalities)
    by_method = {method: result.values(method, metric) for method in methods}
    body = []
    for combination in result.combinations:
        cells = [
            show(
                by_method[method].get(combination, math.nan),
                result.interval(method, combination, metric),
                result.std(method, combination, metric),
            )
            for method in methods
        ]
        counts = sorted({row.n for row in known if row.combination == combination})
        here = [by_method[method].get(combination, math.nan) for method in methods]
        best = best_position(here, result.direction(metric))
        body.append((modalities.mask(combination).tolist(), cells, "/".join(map(str, counts)), best))

    covered = result.dedicated_combinations(metric)
    foot = [
        ("mean", [show(result.mean(m, metric), result.mean_interval(m, metric)) for m in methods]),
        ("worst", [show(result.worst(m, metric)[1]) for m in methods]),
        ("full", [show(result.full(m, metric), result.interval(m, result.full_combination, metric)) for m in methods]),
        ("drop", [show(result.drop(m, metric)) for m in methods]),
    ]
    notes = ["mean: over incomplete combinations; worst: over all; drop: full minus mean"]
    if covered and covered != incomplete:
        means = [show(result.mean(m, metric, covered), result.mean_interval(m, metric, covered)) for m in methods]
        foot.append((f"mean of {len(covered)}", means))
        notes.append(f"mean of {len(covered)}: over the combinations that have a dedicated network")
    if covered and ZERO_FILL in methods:
        gaps = [
            NOTHING if method in (ZERO_FILL, DEDICATED) else number(result.recovered_gap(method, metric), True, "%")
            for method in methods
        ]
        foot.append(("recovered gap", gaps))
        notes.append("recovered gap: (method - zero_fill) / (dedicated - zero_fill) on these means")
    if result.parameters:
        foot.append(("trained", [trained(result.parameters.get(method, {})) for method in methods]))
        if any("per_combination" in counts for counts in result.parameters.values()):
            shares = [per_combination(result.parameters.get(method, {})) for method in methods]
            foot.append(("per combination", shares))
            notes.append("per combination: parameters that one combination adds, and their share of the network")
    if several_seeds:
        notes.append("±: standard deviation over seeds")
    elif intervals and any(row.low is not None for row in known):
        level = result.bootstrap.level if result.bootstrap else 0.95
        notes.append(f"[low, high]: {level:.0%} bootstrap interval over samples")
    title = f"{metric} in %" if percent else metric
    return Sheet(title, list(modalities), methods, body, foot, notes)


def rich_table(result: SweepResult, metric: str | None = None, *, compact: bool = False, narrow: bool = False) -> Table:
    """The table for a terminal, the best method of each row in bold.

    Args:
        result: The sweep.
        metric: What to show; the primary metric by default.
        compact: Leave the intervals out.
        narrow: Leave them out and put the dots of all modalities into one column.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    content = sheet(result, metric, intervals=not (compact or narrow))
    notes = list(content.notes)
    if narrow:
        notes.insert(0, f"dots: {', '.join(content.modalities)}")
    table = Table(
        title=content.title,
        title_style="bold",
        # Text, not str, here and below: the brackets of an interval are no markup.
        caption=Text("\n".join(notes)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0) if narrow else (0, 1),
    )
    table.add_column("", no_wrap=True)
    for name in [] if narrow else content.modalities:
        # A narrow column of dots under a long name costs width that four methods need.
        table.add_column(name.replace("_", "_\n"), justify="center", no_wrap=True)
    for name in content.methods:
        table.add_column(name.replace("_", "_\n") if compact or narrow else name, justify="right", no_wrap=True)
    table.add_column("n", justify="right", style="dim", no_wrap=True)
    for position, (flags, cells, count, best) in enumerate(content.body):
        dots = [Text(PRESENT, style="green") if flag else Text(ABSENT, style="dim") for flag in flags]
        label = [Text(" ").join(dots)] if narrow else [Text("full" if all(flags) else ""), *dots]
        values = [Text(cell, style="bold" if i == best else "") for i, cell in enumerate(cells)]
        table.add_row(*label, *values, Text(count), end_section=position == len(content.body) - 1)
    for name, cells in content.foot:
        table.add_row(name, *[""] * (0 if narrow else len(content.modalities)), *map(Text, cells), "")
    return table


def print_table(result: SweepResult, metric: str | None = None, console: Console | None = None) -> None:
    """Print the most detailed table that the terminal is wide enough for."""
    from rich.console import Console

    console = console or Console()
    unlimited = console.options.update(width=10_000)
    for settings in ({}, {"compact": True}, {"narrow": True}):
        table = rich_table(result, metric, **settings)
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
    console.print(table)


def markdown(result: SweepResult, metric: str | None = None) -> str:
    """The table as GitHub Markdown, the best method of each row in bold."""
    content = sheet(result, metric)
    header = ["", *content.modalities, *content.methods, "n"]
    rule = ["---", *[":-:"] * len(content.modalities), *["--:"] * (len(content.methods) + 1)]
    rows = [header, rule]
    for flags, cells, count, best in content.body:
        values = [f"**{cell}**" if i == best else cell for i, cell in enumerate(cells)]
        rows.append(["full" if all(flags) else "", *[PRESENT if flag else ABSENT for flag in flags], *values, count])
    for label, cells in content.foot:
        rows.append([f"*{label}*", *[""] * len(content.modalities), *cells, ""])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"### {content.title}", "", *lines, "", *[f"- {note}" for note in content.notes]])


def is_percent(result: SweepResult, metric: str) -> bool:
    """Whether a metric is shown in percent: accuracies and overlaps are, errors and losses are not."""
    values = [row.value for row in result.rows if row.metric == metric and math.isfinite(row.value)]
    return result.direction(metric) == "max" and all(abs(value) <= 1 for value in values)


def number(value: float, percent: bool, unit: str = "") -> str:
    """A value with one digit in percent, else with three; a dash where there is none."""
    if not math.isfinite(value):
        return NOTHING
    return f"{100 * value:.1f}{unit}" if percent else f"{value:.3f}{unit}"


def best_position(values: list[float], direction: str) -> int | None:
    """Where the best of several values stands; ``None`` unless there are two to compare and one is ahead."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2 or len(set(finite)) == 1:
        return None
    return values.index(max(finite) if direction == "max" else min(finite))


def trained(counts: dict[str, int]) -> str:
    """Trained parameters, and their share of the network where both are known."""
    if "trained" not in counts:
        return NOTHING
    return _with_share(counts["trained"], counts.get("base"))


def per_combination(counts: dict[str, int]) -> str:
    """Parameters that one combination adds, and their share of the network."""
    if "per_combination" not in counts:
        return NOTHING
    return _with_share(counts["per_combination"], counts.get("base"))


def _with_share(count: int, base: int | None) -> str:
    text = short_count(count)
    return f"{text} ({count / base:.2%})" if base and count < base else text


def short_count(count: int) -> str:
    """``1234567`` as ``1.23M``."""
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{letter}"
    return str(count)
