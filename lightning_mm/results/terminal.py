"""The tables of a sweep in a terminal, as detailed as it is wide."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lightning_mm.results.result import SweepResult
from lightning_mm.results.tables import ABSENT, PRESENT, Sheet, sheet
from lightning_mm.results.texts import NOTHING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PLAIN = {PRESENT: "x", ABSENT: "-", "±": "~", NOTHING: "-", "…": "."}
"""Replacements of letters that an encoding lacks, each as wide as the letter."""
BLOCKS = "by number of missing modalities: their mean, the best and the worst combinations; sweep.csv has all"
"""The note of a table of blocks."""
NARROWEST = 14
"""Width of a method's name in the narrow summary, in letters."""


def rich_table(result: SweepResult, metric: str | None = None, *, compact: bool = False, narrow: bool = False) -> Table:
    """Make the table for a terminal, the best method of each row in bold.

    Args:
        result: The sweep.
        metric: What to show; the primary metric by default.
        compact: Leave the intervals out.
        narrow: Leave them out and put the dots of all modalities into one column.
    """
    return _body_table(sheet(result, metric, intervals=not (compact or narrow)), compact=compact, narrow=narrow)


def print_table(result: SweepResult, metric: str | None = None, console: Console | None = None) -> None:
    """Print the most detailed table that the terminal is wide enough for; with many methods a summary comes first."""
    from rich.console import Console

    console = console or Console()
    detailed, plain = sheet(result, metric), sheet(result, metric, intervals=False)
    if plain.many:
        _print(console, _first_that_fits(console, _summaries(detailed, plain)))
        for table in _parts(console, plain):
            _print(console, table)
        return
    tables = (
        _body_table(content, compact=compact, narrow=narrow)
        for content, compact, narrow in ((detailed, False, False), (plain, True, False), (plain, False, True))
    )
    _print(console, _first_that_fits(console, tables))


def _print(console: Console, table: Table) -> None:
    """Print a table in the letters that the terminal's encoding has."""
    encoding = console.encoding  # rich draws lines of ASCII by it, and fails at the letters of cells
    if encoding.startswith("utf"):
        console.print(table)
        return
    lacking = {ord(letter): other for letter, other in PLAIN.items() if not letter.encode(encoding, "ignore")}
    with console.capture() as captured:
        console.print(table)
    text = captured.get().translate(lacking)
    console.file.write(text.encode(encoding, "replace").decode(encoding))
    console.file.flush()


def _first_that_fits(console: Console, tables: Iterator[Table]) -> Table:
    """The first table that the terminal is wide enough for, or the last one."""
    for table in tables:
        if _fits(console, table):
            break
    return table


def _fits(console: Console, table: Table) -> bool:
    return console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width


def _body_table(
    content: Sheet,
    *,
    compact: bool = False,
    narrow: bool = False,
    columns: Sequence[int] | None = None,
    mean_only: bool = False,
    notes: bool = True,
) -> Table:
    """Combinations down, methods across.

    Args:
        content: What to draw.
        compact: Break the names of methods.
        narrow: The same, and put the dots of all modalities into one column.
        columns: Positions of the methods to draw; all by default.
        mean_only: Cut the foot to its first row, the mean.
        notes: Whether to add the notes below.
    """
    from rich.text import Text

    columns = range(len(content.methods)) if columns is None else columns
    captions = [f"dots: {', '.join(content.modalities)}"] if narrow else []
    captions += [BLOCKS] if content.blocks else []
    table = empty_table(content.title, [*captions, *(content.notes if notes else [])], tight=narrow)
    table.add_column("", no_wrap=True)
    for name in [] if narrow else content.modalities:
        # A narrow column of dots under a long name costs width that four methods need.
        table.add_column(_broken(name), justify="center", no_wrap=True)
    for i in columns:
        name = content.methods[i]
        table.add_column(_broken(name) if compact or narrow else name, justify="right", no_wrap=True)
    table.add_column("n", justify="right", style="dim", no_wrap=True)
    filler = [""] * (0 if narrow else len(content.modalities))

    def add(position: int, end_section: bool = False) -> None:
        flags, cells, count, best = content.body[position]
        dots = [Text(PRESENT, style="green") if flag else Text(ABSENT, style="dim") for flag in flags]
        label = [Text(" ").join(dots)] if narrow else [Text("full" if all(flags) else ""), *dots]
        values = [Text(cells[i], style="bold" if i in best else "") for i in columns]
        table.add_row(*label, *values, Text(count), end_section=end_section)

    for block in content.blocks:
        means = [Text(block.cells[i], style="bold italic" if i in block.best else "italic") for i in columns]
        table.add_row(Text(block.label, style="italic"), *filler, *means, "")
        for position in block.first:
            add(position)
        if block.hidden:
            table.add_row(Text(f"… {block.hidden} more", style="dim"), *filler, *[""] * len(columns), "")
        for position in block.last:
            add(position)
        table.add_section()
    for position in [] if content.blocks else range(len(content.body)):
        add(position, end_section=position == len(content.body) - 1)
    for foot in content.foot[:1] if mean_only else content.foot:
        table.add_row(foot.label, *filler, *[Text(foot.cells[i]) for i in columns], "")
    return table


def _parts(console: Console, content: Sheet) -> list[Table]:
    """The table of many methods, whole if it fits, else cut into as few tables as the terminal allows."""
    count = len(content.methods)
    whole = _body_table(content, compact=True, mean_only=True, notes=False)
    if _fits(console, whole):
        whole.title = None
        return [whole]
    for parts in range(1, count + 1):
        size = math.ceil(count / parts)
        tables = [
            _body_table(
                content, narrow=True, columns=range(start, min(start + size, count)), mean_only=True, notes=False
            )
            for start in range(0, count, size)
        ]
        if all(_fits(console, table) for table in tables):
            break
    for table in tables[:-1]:
        # The legend is below the last part, the title above the summary.
        table.caption = None
    for table in tables:
        table.title = None
    return tables


def _summaries(detailed: Sheet, plain: Sheet) -> Iterator[Table]:
    """Methods down, what matters across: with intervals, without, and with every cell on several lines."""
    yield _summary_table(detailed)
    yield _summary_table(plain)
    yield _summary_table(plain, narrow=True)


def _summary_table(content: Sheet, *, narrow: bool = False) -> Table:
    from rich.text import Text

    # The least important column.
    hidden = "per combination" if narrow else None
    notes = [note for note in content.notes if hidden is None or not note.startswith(hidden)]
    columns = [foot for foot in content.foot if foot.label != hidden]
    table = empty_table(content.title, notes, tight=narrow)
    table.add_column("", no_wrap=True)
    for foot in columns:
        table.add_column(foot.label.replace(" ", "\n") if narrow else foot.label, justify="right", no_wrap=True)
    for position, method in enumerate(content.methods):
        cells = []
        for foot in columns:
            cell = _stacked(foot.cells[position]) if narrow else foot.cells[position]
            cells.append(Text(cell, style="bold" if position in foot.best else ""))
        table.add_row(Text(_broken(method, NARROWEST) if narrow else method), *cells)
    return table


def empty_table(title: str, notes: Sequence[str], *, tight: bool = False) -> Table:
    """An empty table for a terminal, with a title and notes below; a tight one has no space left of its columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=title,
        title_style="bold",
        # Text, not str, here and in cells: the brackets of an interval are no markup.
        caption=Text("\n".join(notes)) if notes else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0) if tight else (0, 1),
    )


def _broken(name: str, width: int = 0) -> str:
    """A long name on several lines, broken at underscores where a line is longer than ``width``."""
    lines = [""]
    for part in re.findall("[^_]*_|[^_]+", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _stacked(cell: str) -> str:
    """``50.7 ± 0.4`` and ``4k (0.40%)`` on two lines."""
    return cell.replace(" ±", "\n±").replace(" (", "\n(")
