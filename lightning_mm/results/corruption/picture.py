"""Results on damaged inputs as a picture: one panel per modality and corruption, severity to the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_mm.results.corruption.result import CLEAN, LEFT_OUT, CorruptionResult
from lightning_mm.results.corruption.tables import is_percent
from lightning_mm.results.heat_map import INK, LINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0b6fa4", "#c8501e", "#2c8a4b", "#8a4fa3", "#a88412", "#5c6670")
PANEL = (2.5, 2.1)
"""Inches."""


def draw_corruption(result: CorruptionResult, metric: str | None = None) -> Figure:
    """Draw each method as a line over severities, and dashed what it returns with the modality declared absent.

    Args:
        result: The rows.
        metric: What to show; the primary one by default.

    Returns:
        A new matplotlib figure, without window or global state.

    Raises:
        LightningMMError: If there are no rows of the metric.
    """
    from matplotlib.figure import Figure

    metric = result.require_metric(metric)
    percent = is_percent(result, metric)
    factor = 100 if percent else 1
    modalities = list(dict.fromkeys(modality for modality, _ in result.damages))
    kinds = {name: [kind for modality, kind in result.damages if modality == name] for name in modalities}
    width = max(map(len, kinds.values()), default=1)
    size = (PANEL[0] * width + 0.5, PANEL[1] * max(1, len(modalities)) + 0.7)
    figure = Figure(figsize=size, dpi=160, facecolor="white", layout="constrained")
    grid = figure.subplots(max(1, len(modalities)), width, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    grades = [0, *result.severities]
    for row, modality in enumerate(modalities):
        for column, corruption in enumerate(kinds[modality]):
            axes = grid[row][column]
            axes.set_visible(True)
            axes.set_title(f"{modality}: {corruption.replace('_', ' ')}", fontsize=9, color=INK, parse_math=False)
            for number, method in enumerate(result.methods):
                colour = COLOURS[number % len(COLOURS)]
                clean = result.figure(method, "", CLEAN, 0, metric).value
                found = [result.figure(method, modality, corruption, grade, metric).value for grade in grades[1:]]
                values = [factor * value for value in (clean, *found)]
                # equal lines, such as those of a base and its adapted form, stay visible as different marks
                axes.plot(
                    grades, values, color=colour, marker="os^Dv<"[number % 6], markersize=7 - number % 6, label=method
                )
                absent = factor * result.figure(method, modality, LEFT_OUT, 0, metric).value
                axes.axhline(absent, color=colour, linestyle=(number, (4, 3)), linewidth=1)
            axes.set_xticks(grades)
            axes.tick_params(labelsize=8, colors=INK, length=2)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#e6eaee", linewidth=0.6)
    figure.supxlabel("severity (0: clean; dashed: the modality declared absent)", fontsize=9, color=LINE)
    figure.supylabel(f"{metric} in %" if percent else metric, fontsize=9, color=INK)
    handles, labels = grid[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), fontsize=8, frameon=False)
    return figure
