"""Tables of a report: texts for the page, and full numbers for the CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_mm.results.figures import Figure
from lightning_mm.results.result import SweepResult
from lightning_mm.results.tables import ABSENT, PRESENT, Sheet, sheet
from lightning_mm.results.texts import is_percent, with_spread

UP, DOWN = "↑", "↓"
"""Higher is better, lower is better."""
LOWER = ("drop", "trained", "per combination", "training")
"""Columns of the summary of which less is better, whatever the direction of the metric."""


NUMBERS = {"n_available": int, "n": int, "seed": int, "value": float, "low": float, "high": float}
"""Columns of ``sweep.csv`` that hold numbers."""


@dataclass(frozen=True)
class Cell:
    """One text of a table.

    Args:
        text: As shown.
        best: Whether it is the best of its row or column.
    """

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the page and its downloads.

    Args:
        name: Begin of the names of its downloads.
        title: Heading.
        columns: Headers, with an arrow where one direction is better.
        rows: As many cells as columns; the first one labels the row.
        records: The same with full numbers, one mapping per line of the CSV.
        notes: What a reader must know.
        exact: The bytes of the CSV, where a file has them already.
    """

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    records: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    exact: bytes | None = None

    def csv(self) -> bytes:
        """The records as CSV; an empty cell for what is not known."""
        if self.exact is not None:
            return self.exact
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(self.lines())
        return text.getvalue().encode()

    def lines(self) -> list[list[Any]]:
        """The header and the records with full numbers; the empty text for what is not known."""
        if self.exact is not None:
            header, *lines = csv.reader(io.StringIO(self.exact.decode("utf-8"), newline=""))
            return [list(header), *([_parsed(name, text) for name, text in zip(header, line)] for line in lines)]
        columns = list(dict.fromkeys(key for record in self.records for key in record))
        return [columns, *([_plain(record.get(key, "")) for key in columns] for record in self.records)]


def arrow(direction: str) -> str:
    """The arrow of a direction, ``"max"`` or ``"min"``."""
    return UP if direction == "max" else DOWN


def title_of(result: SweepResult, metric: str) -> str:
    """``accuracy in % ↑``."""
    return f"{metric}{' in %' if is_percent(result, metric) else ''} {arrow(result.direction(metric))}"


def spread_columns(name: str, figure: Figure) -> dict[str, Any]:
    """A figure as the cells of a CSV."""
    found: dict[str, Any] = {name: figure.value}
    if math.isfinite(figure.std):
        found[f"{name}_std"] = figure.std
    if figure.interval:
        found |= {f"{name}_low": figure.interval[0], f"{name}_high": figure.interval[1]}
    return found


def summary_table(result: SweepResult, metric: str, content: Sheet) -> Table:
    """Methods down; mean, worst, full, drop, recovered gap and costs across."""
    labels = [foot.label for foot in content.foot]
    ways = [_arrow_of(label, result.direction(metric)) for label in labels]
    rows = [
        [Cell(method), *(Cell(foot.cells[position], position in foot.best) for foot in content.foot)]
        for position, method in enumerate(content.methods)
    ]
    records = [
        {
            "method": method,
            "metric": metric,
            **_flat(result.summary(method, metric)),
            **{f"parameters_{key}": value for key, value in result.parameters.get(method, {}).items()},
            **({"training_seconds": result.seconds[method]} if method in result.seconds else {}),
        }
        for method in content.methods
    ]
    columns = ["method", *(f"{label} {way}".strip() for label, way in zip(labels, ways))]
    title = f"{metric}: all methods"
    return Table("summary", title, columns, rows, records, content.notes)


def combination_table(result: SweepResult, metric: str) -> Table:
    """Combinations down, methods across, each with its spread or interval, and the number of samples."""
    content = sheet(result, metric)
    figures = {method: result.figures(method, metric) for method in content.methods}
    way, rows, records = arrow(result.direction(metric)), [], []
    for combination, (flags, cells, count, best) in zip(result.combinations, content.body):
        dots = " ".join(PRESENT if flag else ABSENT for flag in flags)
        values = [Cell(text, position in best) for position, text in enumerate(cells)]
        rows.append([Cell(dots), Cell(combination), *values, Cell(count)])
        record: dict[str, Any] = {"combination": combination, "n_available": sum(flags), "n": count, "metric": metric}
        for method, own in figures.items():
            record |= spread_columns(method, own.of(combination))
        records.append(record)
    notes = [f"{PRESENT} available, {ABSENT} absent: {', '.join(content.modalities)}"]
    notes += [note for note in content.notes if note.startswith(("±", "["))]
    columns = ["", "combination", *(f"{method} {way}" for method in content.methods), "n"]
    return Table("combinations", f"{metric}: all combinations", columns, rows, records, notes)


def curve_table(result: SweepResult, metric: str) -> Table:
    """Methods down, numbers of missing modalities across."""
    percent, counts = is_percent(result, metric), range(len(result.modalities))
    rows, records = [], []
    for method in result.methods:
        points = result.figures(method, metric).curve()
        rows.append([Cell(method), *(Cell(with_spread(point, percent)) for point in points)])
        record: dict[str, Any] = {"method": method, "metric": metric}
        for count, point in zip(counts, points):
            record |= spread_columns(f"missing_{count}", point)
        records.append(record)
    way = arrow(result.direction(metric))
    columns = ["method", *(f"{count} missing {way}" for count in counts)]
    notes = ["means over the combinations with that number of missing modalities; a dash: the method lacks some"]
    return Table("drop", f"{metric}: mean by number of missing modalities", columns, rows, records, notes)


def figures_table(result: SweepResult, content: bytes, most: int) -> Table:
    """The rows of ``sweep.csv`` as they are; the page shows at most so many of them, the CSV all."""
    header, *lines = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
    rows = [[Cell(text) for text in line] for line in lines[:most]]
    notes = [f"the first {most} of {len(lines)} rows; the CSV has all"] if len(lines) > most else []
    return Table("sweep", f"All {len(lines)} figures", list(header), rows, [], notes, exact=content)


def _parsed(column: str, text: str) -> Any:
    """A cell of ``sweep.csv``: texts and columns of others stay, even if they look like numbers."""
    if not text or column not in NUMBERS:
        return text
    return NUMBERS[column](text)


def _arrow_of(label: str, direction: str) -> str:
    if label in LOWER:
        return DOWN
    return UP if label == "recovered gap" else arrow(direction)


def _flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary with lists as text and intervals as two columns."""
    found: dict[str, Any] = {}
    for key, value in summary.items():
        if key.endswith("_interval"):
            if value is not None:
                found |= {key.replace("_interval", "_low"): value[0], key.replace("_interval", "_high"): value[1]}
        else:
            found[key] = (
                " ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
            )
    return found


def _plain(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
