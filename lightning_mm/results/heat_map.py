"""A sweep as a heat map: combinations down (as dots, which stay readable with many modalities), methods across.

Of a large sweep the picture holds the best and the worst combinations of each number of missing modalities.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.files import write_atomically
from lightning_mm.modality_names import ModalityNames
from lightning_mm.results.large.groups import Group, groups, is_large
from lightning_mm.results.result import SweepResult
from lightning_mm.results.tables import MANY
from lightning_mm.results.texts import is_percent, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, LINE = "#22303c", "#c9d1d9", "#8796a5"
ROW, COLUMN, NARROW, DOT = 0.34, 1.25, 0.75, 0.42
"""Inches: height of a row, width of a method, of one of more than ``MANY`` methods, of a modality."""


def heat_map(result: SweepResult, metric: str | None = None) -> Figure:
    """Draw all methods of a result, and below a line their means over incomplete combinations.

    Args:
        result: The sweep.
        metric: What to show; the primary metric by default.

    Returns:
        A new matplotlib figure, without window or global state.

    Raises:
        LightningMMError: If the result has no figure of the metric.
    """
    from matplotlib.figure import Figure

    metric = result.require_metric(metric)
    methods, modalities = result.methods, result.modalities
    figures = [result.figures(method, metric) for method in methods]
    lines = _lines(result, metric)
    rows = [np.array([one.of(line).value if isinstance(line, str) else math.nan for one in figures]) for line in lines]
    means = np.array([one.mean().value for one in figures])
    # One empty row between the combinations and the mean.
    grid = np.stack([*rows, np.full(len(methods), np.nan), means])

    column = NARROW if len(methods) > MANY else COLUMN
    left = 0.15 + max(DOT * len(modalities), 0.75)
    label = 0.2 + 0.055 * max(len(name) for name in [*modalities, *methods])
    # The name of the last method, if it is turned, must end inside the picture.
    right = max(1.15, 0.2 + 0.066 * len(methods[-1]) - column / 2)
    width, height = left + column * len(methods) + right, ROW * len(grid) + label + 0.75
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
    bottom, tall = 0.2 / height, ROW * len(grid) / height
    dots = figure.add_axes((0.15 / width, bottom, (left - 0.15) / width, tall))
    cells = figure.add_axes((left / width, bottom, column * len(methods) / width, tall))
    scale = figure.add_axes(((left + column * len(methods) + 0.2) / width, bottom, 0.13 / width, tall))

    _draw_dots(dots, result, lines)
    image = _draw_cells(cells, result, grid, metric, lines)
    bar = figure.colorbar(image, cax=scale)
    bar.outline.set_visible(False)
    percent = is_percent(result, metric)
    bar.ax.tick_params(labelsize=8, colors=INK, length=2)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}" if percent else f"{value:.3g}")
    figure.text(0.15 / width, 1 - 0.17 / height, f"{metric} in %" if percent else metric,
                fontsize=11, fontweight="bold", color=INK, va="top", parse_math=False)  # fmt: skip
    counts = sorted({row.n for row in result.rows if row.metric == metric})
    samples = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    figure.text(1 - 0.15 / width, 1 - 0.2 / height, f"n = {samples}", fontsize=8, color=LINE, va="top", ha="right")
    return figure


def write_heat_map(result: SweepResult, path: str | Path, metric: str | None = None) -> Path:
    """Write :func:`heat_map` as a PNG."""
    figure = heat_map(result, metric)
    return write_atomically(path, lambda file: figure.savefig(file, format="png"))


Line = str | Group | int
"""A combination, the group that begins here, or the number of combinations that are left out here."""


def _lines(result: SweepResult, metric: str) -> list[Line]:
    """The rows of the picture above the mean."""
    if not is_large(result):
        return list(result.combinations)
    lines: list[Line] = []
    for group in groups(result, metric):
        hidden = [len(group.rest)] if group.rest else []
        lines += [group, *group.best, *hidden, *reversed(group.worst)]
    return lines


def _draw_dots(axes: Axes, result: SweepResult, lines: list[Line]) -> None:
    """One row of dots per combination, joined by a line as in an UpSet plot."""
    modalities, last = result.modalities, len(lines) + 1
    for row, line in enumerate(lines):
        if isinstance(line, Group):
            axes.text(-0.55, row + 0.1, line.mean_title, va="center", fontsize=9, color=INK, weight="bold")
            continue
        if isinstance(line, int):
            axes.text(-0.3, row, f"… {line} more", va="center", fontsize=8, color=LINE, style="italic")
            continue
        present = [modalities.index(name) for name in ModalityNames(modalities).parse(line)]
        axes.plot([present[0], present[-1]], [row, row], color=INK, linewidth=1.4, zorder=1)
        colours = [INK if position in present else FAINT for position in range(len(modalities))]
        axes.scatter(range(len(modalities)), [row] * len(modalities), c=colours, s=34, zorder=2)
    axes.text(len(modalities) - 0.55, last, "mean", ha="right", va="center", fontsize=9, color=INK, style="italic")
    axes.set(xlim=(-0.6, len(modalities) - 0.4), ylim=(last + 0.5, -0.5), yticks=[])
    _name_columns(axes, modalities)


def _draw_cells(axes: Axes, result: SweepResult, grid: NDArray[Any], metric: str, lines: list[Line]) -> Any:
    # A constant method (the share of the most frequent label) does not stretch the colours.
    varies = [not _is_constant(values[np.isfinite(values)]) for values in grid.T]
    coloured = grid[:, varies] if any(varies) else grid
    finite = coloured[np.isfinite(coloured)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    # A span of one point is drawn as a span of two, so that equal methods do not look like night and day.
    margin = max(0.0, 0.02 - (high - low)) / 2
    colours = "viridis" if result.direction(metric) == "max" else "viridis_r"
    image = axes.imshow(grid, aspect="auto", cmap=colours, vmin=low - margin, vmax=high + margin)
    percent = is_percent(result, metric)
    for (row, column), value in np.ndenumerate(grid):
        line = lines[row] if row < len(lines) else ""
        if row == len(lines) or isinstance(line, int):
            continue
        if isinstance(line, Group):
            mean = number(line.means[column].value, percent) if line.size > 1 else ""
            axes.text(column, row + 0.1, mean, ha="center", va="center", fontsize=9, color=INK, style="italic")
            continue
        if math.isfinite(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            colour = "white" if dark else INK
        else:
            colour = LINE
        axes.text(column, row, number(value, percent), ha="center", va="center", fontsize=9, color=colour)
    for edge in np.arange(len(grid) + 1) - 0.5:
        axes.axhline(edge, color="white", linewidth=1.2)
    for edge in np.arange(grid.shape[1] + 1) - 0.5:
        axes.axvline(edge, color="white", linewidth=1.2)
    axes.set(yticks=[])
    _name_columns(axes, result.methods)
    return image


def _is_constant(values: NDArray[Any]) -> bool:
    return len(values) > 2 and float(np.ptp(values)) < 1e-9


def _name_columns(axes: Axes, names: list[str]) -> None:
    axes.xaxis.tick_top()
    turned = axes.get_window_extent().width / axes.figure.dpi / len(names) < 0.085 * max(map(len, names))
    turn: dict[str, Any] = {"rotation": 40, "ha": "left"} if turned else {}
    axes.set_xticks(range(len(names)), names, parse_math=False, **turn)
    axes.tick_params(length=0, labelsize=9, colors=INK, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)
