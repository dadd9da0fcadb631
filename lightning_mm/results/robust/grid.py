"""A table of figures with methods down and named cases across, for a terminal, in Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_mm.files import write_atomically
from lightning_mm.results.figures import Figure
from lightning_mm.results.robustness import Direction
from lightning_mm.results.terminal import empty_table
from lightning_mm.results.texts import best_positions, markdown_text, number, with_spread

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 6
"""A terminal shows more columns than this without standard deviations."""


@dataclass(frozen=True)
class Grid:
    """Figures of several methods in several cases.

    Args:
        title: What the table shows.
        kind: What a column is, such as ``p_missing`` or ``policy``; a column of the CSV.
        metric: The metric.
        columns: The cases.
        rows: Method to one figure per case; NaN if it has none.
        percent: Whether figures are shown in percent.
        direction: Whether more or less is better.
        notes: What a reader must know.
    """

    title: str
    kind: str
    metric: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[Figure, ...]]
    percent: bool
    direction: Direction
    notes: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Title with the metric."""
        return f"{self.metric}{' in %' if self.percent else ''}: {self.title}"

    def best(self) -> set[tuple[str, int]]:
        """Method and position of the best figures of all cases."""
        methods = list(self.rows)
        found = set()
        for place in range(len(self.columns)):
            values = [self.rows[method][place].value for method in methods]
            found |= {(methods[at], place) for at in best_positions(values, self.direction)}
        return found


def grid_markdown(grid: Grid) -> str:
    """Write a Markdown table, the best figures of a column in bold, with its notes."""
    heads = [grid.heading, *map(markdown_text, grid.columns)]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' --: |' * len(grid.columns)}"]
    best = grid.best()
    for method, figures in grid.rows.items():
        texts = [with_spread(figure, grid.percent) for figure in figures]
        texts = [f"**{text}**" if (method, place) in best else text for place, text in enumerate(texts)]
        lines.append(f"| {markdown_text(method)} | {' | '.join(texts)} |")
    return "\n".join([*lines, *(f"\n{note[:1].upper()}{note[1:]}." for note in grid.notes)]) + "\n"


def print_grid(grid: Grid, console: Console | None = None) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.text import Text

    table = empty_table(grid.heading, grid.notes)
    table.add_column("", no_wrap=True)
    for name in grid.columns:
        table.add_column(Text(name), justify="right")
    best, wide = grid.best(), len(grid.columns) > WIDE
    if wide:
        table.padding = 0  # ten columns fit into 80 characters
    for method, figures in grid.rows.items():
        texts = [number(one.value, grid.percent) if wide else with_spread(one, grid.percent) for one in figures]
        bold = ["bold" if (method, place) in best else "" for place in range(len(texts))]
        table.add_row(Text(method), *map(Text, texts, bold))
    (console or Console()).print(table)


def write_grid(grid: Grid, path: Path) -> Path:
    """Write one line per method and case: value, standard deviation, interval and number of seeds."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", grid.kind, "metric", "value", "std", "low", "high", "seeds"))
    for method, figures in grid.rows.items():
        for name, one in zip(grid.columns, figures):
            plain = [value if math.isfinite(value) else "" for value in (one.value, one.std)]
            writer.writerow([method, name, grid.metric, *plain, *(one.interval or ("", "")), len(one.seeds)])
    return write_atomically(path, text.getvalue())
