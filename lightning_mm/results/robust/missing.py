"""Curves of a metric over the probability that a modality is missing, from the figures of a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_mm.files import write_atomically
from lightning_mm.modality_names import MOST_LISTED
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robust.expected import bernoulli
from lightning_mm.results.robust.grid import Grid
from lightning_mm.results.robust.linear import weighted_sum
from lightning_mm.results.texts import is_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

P_MISSING = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Probabilities that a modality is missing."""
INK, LINE = "#22303c", "#c9d1d9"


def missing_curves(
    result: SweepResult,
    metric: str | None = None,
    p_missing: Sequence[float] = P_MISSING,
    bootstrap: Bootstrap | None = None,
) -> Grid | None:
    """Compute what to expect of every method if each modality is missing with probability p; no network runs.

    The expectation of the metric of a combination, which is drawn as by ``IndependentMissing(p)``: each modality is
    missing independently with probability p, given that one is left. Metrics that are means over samples (accuracy)
    have this value on a test set under that policy, up to chance.

    Args:
        result: A sweep of all combinations.
        metric: Which metric; the primary one by default.
        p_missing: The probabilities, each at least 0 and below 1.
        bootstrap: Replicates for intervals; those of the sweep by default.

    Returns:
        One row per method that was swept on all combinations; None if there is none, or too many modalities.

    Raises:
        LightningMMError: If the result has no such metric, or a probability is out of range.

    Example:
        >>> from lightning_mm.results import SweepResult, SweepRow
        >>> values = {"rgb": 0.6, "depth": 0.4, "rgb+depth": 0.9}
        >>> rows = [SweepRow("ssf", name, 1 + name.count("+"), "accuracy", v, 9, 0) for name, v in values.items()]
        >>> grid = missing_curves(SweepResult(rows, ["rgb", "depth"], "accuracy"), p_missing=[0, 0.5])
        >>> [round(figure.value, 3) for figure in grid.rows["ssf"]]
        [0.9, 0.633]
    """
    metric = result.require_metric(metric)
    scenarios = [bernoulli(p, result.modalities) for p in p_missing]
    every = 2 ** len(result.modalities) - 1
    if len(result.modalities) > MOST_LISTED or len(result.combinations) < every:
        return None
    own, weights = bootstrap or result.bootstrap, [one.weights(result.modalities) for one in scenarios]
    rows = {}
    for method in result.methods:
        figures = tuple(weighted_sum(result, metric, {method: one}, bootstrap=own) for one in weights)
        if all(math.isfinite(figure.value) for figure in figures):
            rows[method] = figures
    left_out = [method for method in result.methods if method not in rows]
    notes = ["expectation if each modality is missing with probability p, given that one is left"]
    if left_out:
        notes.append(f"left out, since they lack a combination: {', '.join(left_out)}")
    columns = tuple(f"{p:g}" for p in p_missing)
    percent, direction = is_percent(result, metric), result.direction(metric)
    title = "by the probability that a modality is missing"
    return Grid(title, "p_missing", metric, columns, rows, percent, direction, tuple(notes)) if rows else None


def draw_curves(grid: Grid) -> Picture:
    """Draw one line per method, with a band of one standard deviation over seeds if there are several."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(6.4, 4.0), dpi=160, facecolor="white", layout="constrained")
    axes = picture.add_subplot()
    scale = 100 if grid.percent else 1
    xs = [float(column) for column in grid.columns]
    for place, (method, figures) in enumerate(grid.rows.items()):
        colour, dash = f"C{place % 10}", ("-", "--", ":", "-.")[place // 10 % 4]
        values = [scale * figure.value for figure in figures]
        axes.plot(xs, values, dash, color=colour, marker="o", markersize=3, linewidth=1.4, label=method)
        spread = [scale * figure.std for figure in figures]
        if all(map(math.isfinite, spread)):
            low, high = ([v + sign * s for v, s in zip(values, spread)] for sign in (-1, 1))
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("probability that a modality is missing, given that one is left", color=INK, fontsize=9)
    axes.set_ylabel(f"{grid.metric}{' in %' if grid.percent else ''}", color=INK, fontsize=9)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(color=LINE, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    legend = axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for text in legend.get_texts():
        text.set_parse_math(False)
    return picture


def write_curves(grid: Grid, path: Path) -> Path:
    """Write :func:`draw_curves` as a PNG."""
    picture = draw_curves(grid)
    return write_atomically(path, lambda file: picture.savefig(file, format="png"))
