"""What each modality is worth, as coloured tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_mm.errors import LightningMMError
from lightning_mm.report.downloads import file_name
from lightning_mm.report.drawing.colours import BLUE_TO_RED, is_dark, ramp
from lightning_mm.report.tables import Cell, Table, spread_columns
from lightning_mm.results.figures import Figure
from lightning_mm.results.importance import Importance, importance, importance_per_class
from lightning_mm.results.importance.shapley import MAJORITY
from lightning_mm.results.importance.tables import JOINED
from lightning_mm.results.result import SweepResult
from lightning_mm.results.texts import is_percent, number, with_spread

MOST_CLASSES = 60
"""The most classes whose importance is shown."""


@dataclass(frozen=True)
class Worth:
    """Importance of all methods that have all combinations.

    Args:
        tables: Shapley values, and interactions of pairs if there are some.
        colours: Per table the colour and darkness of every cell but the first of a row; empty for no colour.
        left_out: Why other methods are missing, or all.
        methods: Those in the tables.
    """

    tables: list[Table]
    colours: list[list[list[tuple[str, bool]]]]
    left_out: list[str]
    methods: tuple[str, ...] = ()


def worth(result: SweepResult, metric: str, empty: float | None) -> Worth:
    """Shapley values and interactions; ``empty`` is the value without any modality, see ``lightning-mm importance``."""
    found: list[Importance] = []
    reasons: dict[str, list[str]] = {}
    for method in result.methods:
        if method == MAJORITY:
            continue
        try:
            found.append(importance(result, method, metric, empty))
        except LightningMMError as error:
            reasons.setdefault(str(error).replace(repr(method), "the method"), []).append(method)
    left_out = [f"{', '.join(methods)}: {reason}" for reason, methods in reasons.items()]
    if not found:
        return Worth([], [], list(reasons)[:1])
    percent, first = is_percent(result, metric), found[0]
    known = first.source in ("", MAJORITY)
    source = "" if known else f" ({first.source}; --empty gives another value)"
    nothing = f"without any modality: {number(first.empty, percent)}{source}"
    notes = [f"{nothing}; positive helps, in either direction of the metric"]
    if first.permutations:
        notes.append(f"{first.permutations} sampled permutations")
    notes += [one.left_out_note for one in found if one.left_out]
    shapley = {one.method: {**one.shapley, "full − empty": _total(one)} for one in found}
    tables = [
        _table("importance", f"{metric}: what each modality adds (Shapley values)", metric, shapley, percent, notes)
    ]
    pairs: dict[str, dict[str, Figure]] = {}
    for one in found:
        for pair, figure in one.interactions.items():
            pairs.setdefault(JOINED.join(pair), {})[one.method] = figure
    if len(result.modalities) > 1 and pairs:
        note = ["positive: worth more together than apart; negative: one can replace the other"]
        tables.append(_table("pairs", f"{metric}: pairs of modalities", metric, pairs, percent, note))
    grids = [
        [list(own.values())[: -1 or None] for own in shapley.values()],
        [list(own.values()) for own in pairs.values()],
    ]
    colours = [_colours(grid, len(table.columns) - 1) for table, grid in zip(tables, grids)]
    return Worth(tables, colours, left_out, tuple(one.method for one in found))


def worth_per_class(result: SweepResult, methods: Sequence[str], empty: float | None) -> Worth:
    """Shapley values of every class, one table per method; none without classes or statistics of samples.

    Args:
        result: With statistics of samples.
        methods: Those of :func:`worth`.
        empty: Value without any modality, as for :func:`worth`.
    """
    try:
        found = importance_per_class(result, methods, empty, replicates=0)
    except LightningMMError as error:
        return Worth([], [], [str(error)])
    tables, colours = [], []
    for method, groups in found.items():
        if not groups or len(groups) > MOST_CLASSES:
            return Worth([], [], [f"{len(groups)} classes; at most {MOST_CLASSES} are shown"])
        first = groups[0]
        metric = first.importance.metric.removesuffix(f"_{first.name}")
        rows = {one.name: {**one.importance.shapley, "full − empty": _total(one.importance)} for one in groups}
        tables.append(
            _table(f"importance_per_class_{file_name(method)}", f"{method}: {metric}", metric, rows, True, [])
        )
        grid = [list(own.values())[:-1] for own in rows.values()]
        colours.append(_colours(grid, len(tables[-1].columns) - 1))
    return Worth(tables, colours, [])


def _total(one: Importance) -> Figure:
    return Figure(sum(figure.value for figure in one.shapley.values()), math.nan, None, ())


def _table(
    name: str, title: str, metric: str, lines: dict[str, dict[str, Figure]], percent: bool, notes: list[str]
) -> Table:
    columns = list(next(iter(lines.values())))
    rows = [
        [Cell(line), *(Cell(with_spread(own[column], percent, intervals=True)) for column in columns)]
        for line, own in lines.items()
    ]
    records: list[dict[str, Any]] = []
    for line, own in lines.items():
        record: dict[str, Any] = {"": line, "metric": metric}
        for column, figure in own.items():
            record |= spread_columns(column, figure)
        records.append(record)
    return Table(name, title, ["", *columns], rows, records, notes)


def _colours(grid: list[list[Figure]], width: int) -> list[list[tuple[str, bool]]]:
    finite = [abs(one.value) for row in grid for one in row if math.isfinite(one.value)]
    most = max(finite, default=0.0) or 1.0
    found = []
    for row in grid:
        colours = [ramp(0.5 + one.value / most / 2, BLUE_TO_RED) if math.isfinite(one.value) else "" for one in row]
        cells = [(colour, bool(colour) and is_dark(colour)) for colour in colours]
        found.append(cells + [("", False)] * (width - len(cells)))
    return found
