"""Robustness as tables of the page: areas, MultiBench's figures, expectations, policies and damaged inputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.report.tables import DOWN, UP, Cell, Table, arrow, spread_columns
from lightning_mm.results.corruption import read_corruption
from lightning_mm.results.corruption.result import CLEAN, LEFT_OUT
from lightning_mm.results.corruption.tables import is_percent as is_percent_of
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robust import Grid, missing_curves, policy_figures, robustness, usual_scenarios
from lightning_mm.results.robust.tables import figures_of, legend
from lightning_mm.results.rows import ZERO_FILL
from lightning_mm.results.texts import is_percent, with_spread

WAYS = {"drop area": DOWN, "effective": UP}
"""Figures with a direction of their own; the others have that of the metric."""


def robustness_table(result: SweepResult, metric: str) -> Table | None:
    """Methods down, figures of robustness across; ``None`` if no method has what any of them needs."""
    scenarios = usual_scenarios(result.modalities)
    reference = ZERO_FILL if ZERO_FILL in result.methods else ""
    found = [robustness(result, method, metric, reference, scenarios) for method in result.methods]
    names = [name for name in figures_of(found[0]) if any(math.isfinite(figures_of(one)[name].value) for one in found)]
    if not names:
        return None
    percent, direction = is_percent(result, metric), result.direction(metric)
    rows, records = [], []
    for one in found:
        figures = {name: figure for name, figure in figures_of(one).items() if name in names}
        rows.append([Cell(one.method), *(Cell(with_spread(own, percent, intervals=True)) for own in figures.values())])
        record: dict[str, Any] = {"method": one.method, "metric": metric}
        for name, own in figures.items():
            record |= spread_columns(name.replace(" ", "_"), own)
        records.append(record)
    columns = ["method", *(f"{name} {WAYS.get(name, arrow(direction))}" for name in names)]
    return Table("robustness", f"{metric}: robustness", columns, rows, records, legend(found, names, direction))


def missing_table(result: SweepResult, metric: str) -> Table | None:
    """Methods down, the probability that a modality is missing across; ``None`` if no method has all combinations."""
    grid = missing_curves(result, metric)
    return None if grid is None else _table("p_missing", grid)


def policy_table(result: SweepResult, metric: str) -> Table | None:
    """Methods down, policies that the sweep drew across; ``None`` if there are none or statistics do not suffice."""
    try:
        grid = policy_figures(result, metric)
    except LightningMMError:  # the sweep says so when it is written
        return None
    return None if grid is None else _table("policies", grid)


def _table(name: str, grid: Grid) -> Table:
    rows, records = [], []
    for method, figures in grid.rows.items():
        rows.append([Cell(method), *(Cell(with_spread(figure, grid.percent)) for figure in figures)])
        record: dict[str, Any] = {"method": method, "metric": grid.metric}
        for column, figure in zip(grid.columns, figures):
            record |= spread_columns(f"{grid.kind}_{column}", figure)
        records.append(record)
    columns = ["method", *(f"{column} {arrow(grid.direction)}" for column in grid.columns)]
    return Table(name, f"{grid.metric}: {grid.title}", columns, rows, records, list(grid.notes))


def corruption_table(folder: Path, result: SweepResult, metric: str) -> Table | None:
    """Damages down, methods across, from the ``corruption.csv`` of a folder; ``None`` without one of that metric.

    Raises:
        LightningMMError: If the file is damaged.
    """
    try:
        found = read_corruption(folder, metric, result.directions)
    except DataNotFoundError:
        return None
    if metric not in {row.metric for row in found.rows}:
        return None
    lines = [("nothing", "", CLEAN, 0)]
    for modality in dict.fromkeys(name for name, _ in found.damages):
        lines.append((f"{modality}: left out", modality, LEFT_OUT, 0))
        for corruption in (kind for name, kind in found.damages if name == modality):
            title = f"{modality}: {corruption.replace('_', ' ')}"
            lines += [(f"{title} {severity}", modality, corruption, severity) for severity in found.severities]
    percent, rows, records = is_percent_of(found, metric), [], []
    for title, modality, corruption, severity in lines:
        cells = [Cell(title)]
        record: dict[str, Any] = {
            "modality": modality,
            "corruption": corruption,
            "severity": severity,
            "metric": metric,
        }
        for method in found.methods:
            figure = found.figure(method, modality, corruption, severity, metric)
            pays = bool(severity) and found.pays(method, modality, corruption, severity, metric)
            cells.append(Cell(with_spread(figure, percent, intervals=True), pays))
            record |= spread_columns(method, figure)
        rows.append(cells)
        records.append(record)
    notes = [
        "one modality is damaged, with a severity of 1 to 5, and the others are clean",
        "bold: better if the damaged modality is declared absent (the row `left out`)",
    ]
    columns = ["damaged", *(f"{method} {arrow(found.direction(metric))}" for method in found.methods)]
    return Table("corruption", f"{metric}: damaged inputs", columns, rows, records, notes)
