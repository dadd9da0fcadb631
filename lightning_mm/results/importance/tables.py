"""Importance as tables and as a heat map: methods down, modalities and pairs of them across."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_mm.files import write_atomically
from lightning_mm.results.heat_map import INK
from lightning_mm.results.importance.groups import Group
from lightning_mm.results.importance.shapley import Importance
from lightning_mm.results.texts import number, with_spread

if TYPE_CHECKING:
    from rich.console import Console

JOINED = " x "
"""Between the two modalities of a pair."""
COLUMNS = ("method", "of", "metric", "value", "std", "low", "high", "seeds")


def print_importance(found: Sequence[Importance], percent: bool, console: Console | None = None) -> None:
    """Print Shapley values, and interactions if there are some, of several methods on the same sweep."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, first = console or Console(), found[0]
    unit = " in %" if percent else ""
    shapley = Table(
        title=f"{first.metric}{unit}: what each modality adds (Shapley values)", caption=Text(_notes(found))
    )
    pairs = Table(title=f"{first.metric}{unit}: pairs (positive: worth more together than apart)")
    for table, names in ((shapley, [*first.shapley, "full - empty"]), (pairs, _pairs(first))):
        table.add_column("")
        for name in names:
            table.add_column(name, justify="right")
    for one in found:
        added = sum(figure.value for figure in one.shapley.values())
        cells = [with_spread(figure, percent, intervals=True) for figure in one.shapley.values()]
        shapley.add_row(*map(Text, (one.method, *cells, number(added, percent))))
        cells = [with_spread(figure, percent, intervals=True) for figure in one.interactions.values()]
        pairs.add_row(*map(Text, (one.method, *cells)))
    console.print(shapley)
    if first.interactions:
        console.print(pairs)


def print_groups(
    groups: Mapping[str, Sequence[Group]], what: str, percent: bool, console: Console | None = None
) -> None:
    """Print the Shapley values of every class or group, one table per method.

    Args:
        groups: Method to its groups.
        what: What the groups are, ``class`` or the name of the user's column.
        percent: Whether values are shown in percent.
        console: The terminal.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, unit = console or Console(), " in %" if percent else ""
    for method, own in groups.items():
        first = own[0].importance
        metric = first.metric.removesuffix(f"_{own[0].name}")
        table = Table(
            title=f"{method}, {metric}{unit}: what each modality adds, by {what}",
            caption=Text("empty: without any modality; full - empty is what the modalities of a row add up to"),
        )
        table.add_column(what)
        for name in (*first.shapley, "full - empty", "empty", "n"):
            table.add_column(name, justify="right")
        for one in own:
            figures = one.importance.shapley.values()
            cells = [with_spread(figure, percent, intervals=True).replace(" [", "\n[") for figure in figures]
            added, empty = sum(figure.value for figure in figures), one.importance.empty
            numbers = [number(added, percent), number(empty, percent), str(one.n) if one.n else ""]
            table.add_row(*map(Text, (one.name, *cells, *numbers)))
        console.print(table)


def write_groups(
    groups: Mapping[str, Sequence[Group]], what: str, percent: bool, folder: str | Path
) -> dict[str, Path]:
    """Write ``importance_per_<what>.csv`` and one heat map per method; returns what was written by name.

    Args:
        groups: Method to its groups.
        what: What the groups are; letters that a file name should not have become ``_``.
        percent: Whether the maps show values in percent.
        folder: Where to write.
    """
    folder, name, text = Path(folder), f"importance_per_{_as_file(what)}", io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((what, *COLUMNS, "empty", "n"))
    for own in groups.values():
        for group in own:
            one = group.importance
            writer.writerows([group.name, *cells, one.empty, group.n or ""] for cells in _lines(one))
    written = {name: write_atomically(folder / f"{name}.csv", text.getvalue())}
    for method, own in groups.items():
        rows = [replace(group.importance, method=group.name) for group in own]
        path = folder / f"{name}_{_as_file(method)}.png"
        metric = own[0].importance.metric.removesuffix(f"_{own[0].name}")
        written[path.stem] = write_importance_map(rows, percent, path, f"{method}, {metric} by {what}")
    return written


def _as_file(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def write_importance(found: Sequence[Importance], percent: bool, folder: str | Path) -> dict[str, Path]:
    """Write ``importance.csv`` (one row per figure) and ``importance.png``; returns ``{"csv": path, "png": path}``."""
    folder, text = Path(folder), io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in found:
        writer.writerows(_lines(one))
    written = write_atomically(folder / "importance.csv", text.getvalue())
    return {"csv": written, "png": write_importance_map(found, percent, folder / "importance.png")}


def _lines(one: Importance) -> Iterator[list[Any]]:
    """The cells of a CSV, one line per figure."""
    figures = {**one.shapley, **{JOINED.join(pair): figure for pair, figure in one.interactions.items()}}
    for name, figure in figures.items():
        std = figure.std if np.isfinite(figure.std) else ""
        low, high = figure.interval or ("", "")
        yield [one.method, name, one.metric, figure.value, std, low, high, len(figure.seeds)]


def write_importance_map(found: Sequence[Importance], percent: bool, path: str | Path, title: str = "") -> Path:
    """Draw both tables side by side as a heat map, red for what helps and blue for what harms.

    Args:
        found: One per row, which is labelled with its method.
        percent: Whether values are shown in percent.
        path: The PNG.
        title: What the rows are of; by default the metric of the first.
    """
    from matplotlib.figure import Figure

    first = found[0]
    names = [*first.shapley, *_pairs(first)]
    grid = np.array([[f.value for f in (*one.shapley.values(), *one.interactions.values())] for one in found])
    label = max(len(one.method) for one in found)
    width, height = 0.6 + 0.085 * label + 1.05 * len(names) + 0.3, 1.5 + 0.42 * len(found)
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
    left = (0.6 + 0.085 * label) / width
    axes = figure.add_axes((left, 0.35 / height, 1.05 * len(names) / width, 0.42 * len(found) / height))
    most = float(np.nanmax(np.abs(grid))) or 1.0
    image = axes.imshow(grid, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)
    for (row, column), value in np.ndenumerate(grid):
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        colour = "white" if dark else INK
        axes.text(column, row, number(value, percent), ha="center", va="center", fontsize=9, color=colour)
    axes.axvline(len(first.shapley) - 0.5, color="white", linewidth=5)
    axes.set_yticks(range(len(found)), [one.method for one in found], parse_math=False)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), [name.replace(JOINED, " x\n") for name in names], parse_math=False)
    axes.tick_params(length=0, labelsize=9, colors=INK, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)
    unit = " in %" if percent else ""
    what = title or first.metric
    heading = f"{what}{unit}: Shapley values{' and pairs' if first.interactions else ''}"
    place = 0.15 / width, 1 - 0.12 / height
    figure.text(*place, heading, fontsize=11, fontweight="bold", color=INK, va="top", parse_math=False)
    note = _notes(found) if not title else "positive: helps; what a network without any modality reaches is in the CSV"
    figure.text(0.15 / width, 0.08 / height, note, fontsize=7.5, color="#8796a5", va="bottom")
    return write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _pairs(one: Importance) -> list[str]:
    return [JOINED.join(pair) for pair in one.interactions]


def _notes(found: Sequence[Importance]) -> str:
    first = found[0]
    sampled = f"; {first.permutations} sampled permutations" if first.permutations else ""
    source = f" ({first.source})" if first.source else ""
    left_out = "".join(f"; {one.left_out_note}" for one in found if one.left_out)
    return f"without any modality: {first.empty:.4g}{source}{sampled}{left_out}"
