"""Confusion matrices and predicted against true numbers, one panel per method.

Shapes: n samples count for a combination, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.results.heat_map import INK, LINE
from lightning_mm.results.result import SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pairs = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""Method to predictions and targets, ``[n]`` each; those of several seeds one after the other."""
PANELS = 8
"""How many methods are drawn: of more, the first ones and the last."""
ACROSS = 4
"""Panels in a row."""
NUMBERED = 12
"""Up to this many classes, cells have numbers and ticks have names."""
PANEL, MARGIN = 2.3, 0.75
"""Inches."""
_KEY = re.compile(r"(?:seed-?\d+/)?([^/]+)/([^/]+)/(prediction|target)")


def label_pairs(result: SweepResult, combination: str) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Predictions and targets of every method on a combination, ``[n]`` each; empty if the sweep keeps none."""
    found: dict[str, dict[str, list[NDArray[Any]]]] = {}
    for key, values in result.samples.items():
        match = _KEY.fullmatch(key)
        if match and match[2] == combination and values.ndim == 1:
            found.setdefault(match[1], {}).setdefault(match[3], []).append(values)
    pairs = {}
    for method in result.methods:
        own = found.get(method, {})
        if len(own.get("prediction", ())) == len(own.get("target", ())) > 0:
            prediction, target = np.concatenate(own["prediction"]), np.concatenate(own["target"])
            if len(prediction) == len(target):
                pairs[method] = prediction, target
    return pairs


def confusion_picture(pairs: Pairs, combination: str, class_names: Sequence[str] = ()) -> Figure:
    """Draw the confusion matrix of every method: true classes down, predicted ones across, shares of the true class.

    Args:
        pairs: What was predicted, see :func:`label_pairs`.
        combination: For the title.
        class_names: Names by label; numbers if there are fewer than labels.
    """
    labels = np.unique(np.concatenate([np.unique(one) for pair in pairs.values() for one in pair]))
    classes = max(int(labels.max()) + 1, len(class_names)) if len(labels) else 1
    names = list(class_names) if len(class_names) == classes else [str(label) for label in range(classes)]
    figure, axes = panels(pairs, f"{combination}: predicted (across) and true class (down), share of the true class")
    for axis, (prediction, target) in zip(axes, chosen(pairs).values()):
        counts = np.zeros((classes, classes))
        np.add.at(counts, (target.astype(np.int64), prediction.astype(np.int64)), 1)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal", interpolation="nearest")
        _name_cells(axis, shares, names)
    return figure


def values_picture(pairs: Pairs, combination: str) -> Figure:
    """Draw predicted (up) against true numbers (across) of every method, with the line of no error."""
    finite = [one[np.isfinite(one)] for pair in pairs.values() for one in pair]
    joined = np.concatenate(finite) if finite else np.zeros(1)
    low, high = (float(joined.min()), float(joined.max())) if len(joined) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.5
    figure, axes = panels(pairs, f"{combination}: predicted (up) against true value (across)")
    for axis, (prediction, target) in zip(axes, chosen(pairs).values()):
        limits = low - margin, high + margin
        axis.plot(limits, limits, color=LINE, linewidth=0.8, linestyle="--", zorder=1)
        axis.scatter(target, prediction, s=7, alpha=0.45, color="#2f6f9f", linewidths=0, zorder=2)
        axis.set(xlim=limits, ylim=limits, aspect="equal")
        error = float(np.mean(np.abs(prediction.astype(float) - target.astype(float)))) if len(target) else float("nan")
        axis.text(0.04, 0.96, f"mean error {error:.3f}", transform=axis.transAxes, fontsize=7, va="top", color=INK)
    return figure


def chosen(pairs: Pairs) -> Pairs:
    """The methods that are drawn."""
    names = list(pairs)
    names = names if len(names) <= PANELS else [*names[: PANELS - 1], names[-1]]
    return {name: pairs[name] for name in names}


def panels(pairs: Pairs, title: str) -> tuple[Figure, list[Axes]]:
    """A figure with one panel per method, named after it, and the panels."""
    from matplotlib.figure import Figure

    methods = list(chosen(pairs))
    columns = min(ACROSS, len(methods))
    rows = -(-len(methods) // columns)
    width, height = columns * (PANEL + MARGIN) + 0.3, rows * (PANEL + MARGIN) + 0.3
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    axes = []
    for place, method in enumerate(methods):
        row, column = divmod(place, columns)
        left, bottom = column * (PANEL + MARGIN) + MARGIN, height - 0.3 - (row + 1) * (PANEL + MARGIN) + MARGIN * 0.55
        axis = figure.add_axes((left / width, bottom / height, PANEL / width, PANEL / height))
        axis.set_title(f"{method}, {len(pairs[method][1])} predictions", fontsize=8, color=INK, pad=4, parse_math=False)
        axis.tick_params(labelsize=6.5, colors=INK, length=2)
        for spine in axis.spines.values():
            spine.set_color(LINE)
        axes.append(axis)
    x, y = 0.1 / width, 1 - 0.1 / height
    figure.text(x, y, title, fontsize=9, fontweight="bold", color=INK, va="top", parse_math=False)
    return figure, axes


def _name_cells(axis: Axes, shares: NDArray[np.float64], names: list[str]) -> None:
    if len(names) > NUMBERED:
        axis.tick_params(labelsize=6)
        return
    short = [name if len(name) <= 10 else f"{name[:9]}…" for name in names]
    longest = max(map(len, short))
    turn = 90 if longest > 2 and len(names) > 3 else 0
    axis.set_xticks(range(len(names)), short, rotation=turn, parse_math=False)
    axis.set_yticks(range(len(names)), short, parse_math=False)
    for (row, column), share in np.ndenumerate(shares):
        if share > 0:
            colour = "white" if share > 0.55 else INK
            axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
