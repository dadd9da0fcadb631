"""Robustness and differences of methods as tables in a terminal and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_mm.files import write_atomically
from lightning_mm.results.figures import Figure
from lightning_mm.results.per_sample.paired import Difference
from lightning_mm.results.robust.figures import Robustness
from lightning_mm.results.robustness import Direction, normalised
from lightning_mm.results.terminal import empty_table
from lightning_mm.results.texts import NOTHING, number, with_spread

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("method", "figure", "metric", "value", "std", "low", "high", "seeds")
AGAINST_COLUMNS = (
    "method",
    "against",
    "combination",
    "metric",
    "difference",
    "std",
    "low",
    "high",
    "better",
    "n",
    "seeds",
)


def figures_of(one: Robustness) -> dict[str, Figure]:
    """Name to figure, in the order of the table."""
    found = {"area": one.area, "drop area": one.drop_area, "relative": one.relative, "effective": one.effective}
    return {**found, **{f"E[{name}]": figure for name, figure in one.expected.items()}}


def normalised_of(found: Sequence[Robustness], direction: Direction) -> dict[str, dict[str, float]]:
    """Method to its relative and effective robustness between the worst (0) and the best (1) method, as in MultiBench.

    NaN for fewer than two methods that have them.
    """
    scaled: dict[str, dict[str, float]] = {one.method: {} for one in found}
    # effective robustness is positive if better, whatever the direction
    ways: dict[str, Direction] = {"relative": direction, "effective": "max"}
    for name, way in ways.items():
        values = {one.method: figures_of(one)[name].value for one in found}
        known = [value for value in values.values() if math.isfinite(value)]
        for method, value in values.items():
            usable = math.isfinite(value) and len(known) > 1
            scaled[method][f"{name} 0-1"] = normalised(value, known, way) if usable else math.nan
    return scaled


def legend(found: Sequence[Robustness], columns: Sequence[str], direction: Direction) -> list[str]:
    """What the columns are, one sentence each."""
    first = found[0]
    way = "higher" if direction == "max" else "lower"
    lines = [
        f"area: under the curve of the mean by missing modalities ({way} is better); drop area: under full minus curve",
        "relative: area over the share of missing modalities, 0 to (M - 1) / M, as in MultiBench",
    ]
    if "effective" in columns:
        lines.append(f"effective: height above the curve of {first.reference} moved to the same full value, summed")
    if first.expected:
        lines.append(
            "E[...]: expectation under this availability (p: probability that a modality is missing), given that any "
            "is available"
        )
    return lines


def print_robustness(
    found: Sequence[Robustness],
    percent: bool,
    direction: Direction,
    notes: Iterable[str],
    console: Console | None = None,
) -> None:
    """Print the figures of all methods, methods down; figures that no method has are left out."""
    from rich.console import Console
    from rich.text import Text

    columns = [
        name for name in figures_of(found[0]) if any(math.isfinite(figures_of(one)[name].value) for one in found)
    ]
    title = f"{found[0].metric}{' in %' if percent else ''}: robustness"
    table = empty_table(title, [*legend(found, columns, direction), *notes])
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(Text(name), justify="right")  # Text: its brackets are no markup
    for one in found:
        figures = figures_of(one)
        cells = [with_spread(figures[name], percent, intervals=True).replace(" [", "\n[") for name in columns]
        table.add_row(*map(Text, (one.method, *cells)))
    (console or Console()).print(table)


def print_differences(
    found: Sequence[Difference], metric: str, percent: bool, level: float, console: Console | None = None
) -> None:
    """Print one table per method: its difference from the other in every combination."""
    from rich.console import Console
    from rich.text import Text

    console, methods = console or Console(), list(dict.fromkeys(one.method for one in found))
    notes = ["positive: better, in either direction of the metric; the mean is over the incomplete combinations"]
    if any(one.figure.interval for one in found):
        notes.append(
            f"[low, high]: {level:.0%} interval of paired resamples of the samples; better: share of resamples in "
            "which it is better; bold: the interval does not hold 0"
        )
    if any(math.isfinite(one.figure.std) for one in found):
        notes.append("±: standard deviation over the seeds of both methods")
    for method in methods:
        own = [one for one in found if one.method == method]
        title = f"{metric}{' in %' if percent else ''}: {method} against {own[0].other}"
        table = empty_table(title, notes if method == methods[-1] else [])  # the same for all of them
        for name in ("combination", "difference", "", "better", "n"):
            table.add_column(name, justify="left" if name == "combination" else "right")
        for one in own:
            interval = one.figure.interval
            text = "" if interval is None else f"[{number(interval[0], percent)}, {number(interval[1], percent)}]"
            sure = interval is not None and (interval[0] > 0 or interval[1] < 0)
            difference = with_spread(one.figure, percent)
            cells = (one.combination, difference, text, _share(one.better), str(one.n))
            table.add_row(*(Text(cell, style="bold" if sure else "") for cell in cells))
        console.print(table)


def write_robustness(
    found: Sequence[Robustness], direction: Direction, calibration: Sequence[tuple[str, str, Figure]], path: Path
) -> Path:
    """Write one row per figure.

    Args:
        found: Figures of all methods.
        direction: That of the metric.
        calibration: Method, ``ece full`` and the like, figure.
        path: The CSV.
    """
    scaled, rows = normalised_of(found, direction), []
    for one in found:
        for name, figure in figures_of(one).items():
            rows.append([one.method, name, one.metric, *_spread(figure)])
        for name, value in scaled[one.method].items():
            rows.append([one.method, name, one.metric, *_spread(Figure(value, math.nan, None, one.relative.seeds))])
    rows += [[method, *name.split(" ", 1)[::-1], *_spread(figure)] for method, name, figure in calibration]
    return _write(path, COLUMNS, rows)


def write_differences(found: Sequence[Difference], metric: str, path: Path) -> Path:
    """Write one row per method and combination."""
    rows = []
    for one in found:
        value, std, low, high, seeds = _spread(one.figure)
        rows.append(
            [one.method, one.other, one.combination, metric, value, std, low, high, _plain(one.better), one.n, seeds]
        )
    return _write(path, AGAINST_COLUMNS, rows)


def _spread(figure: Figure) -> list[Any]:
    low, high = figure.interval or ("", "")
    return [_plain(figure.value), _plain(figure.std), low, high, len(figure.seeds)]


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else ""


def _share(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else NOTHING


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return write_atomically(path, text.getvalue())
