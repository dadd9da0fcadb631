"""Native charts of Weights & Biases: bars of means, lines of drops, a heat map of combinations and methods."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from lightning_mm.tracking.record.content import LONG_COLUMNS, SweepRecord

HEAT_MAP_PRESET = "wandb/heatmap/v1"
"""The heat map that W&B knows without a saved preset; ``lightning-mm dashboard`` saves :func:`heat_map_spec`."""
HEAT_MAP_COLUMNS = ("x_axis", "y_axis", "values")
"""Method, combination, and the mean over seeds."""
TABLE, BARS, LINES, HEAT_MAP = "sweep/table", "sweep/chart/mean", "sweep/chart/drop", "sweep/chart/heat_map"
"""Keys of the long table and of the charts."""


def heat_map_spec() -> dict[str, Any]:
    """The Vega-Lite specification of the heat map; its fields are :data:`HEAT_MAP_COLUMNS`."""
    text = Path(__file__).with_name("heat_map.vega.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def tables_and_charts(record: SweepRecord) -> dict[str, Any]:
    """The long table, and the charts of the primary metric, by key; those without a value are left out."""
    import wandb

    found: dict[str, Any] = {TABLE: wandb.Table(list(LONG_COLUMNS), record.table())}
    result = record.seen
    metric = result.primary_metric
    means = [[method, value] for method in record.recorded if math.isfinite(value := result.mean(method))]
    if means:
        found[BARS] = wandb.plot.bar(
            wandb.Table(["method", "mean"], means), "method", "mean", f"mean {metric} of incomplete combinations"
        )
    curves = {method: [float(value) for value in result.curve(method)] for method in record.recorded}
    curves = {method: curve for method, curve in curves.items() if curve and all(map(math.isfinite, curve))}
    if curves:
        found[LINES] = wandb.plot.line_series(
            list(range(len(result.modalities))), list(curves.values()), list(curves),
            f"{metric} by missing modalities", "missing modalities",
        )  # fmt: skip
    values = {method: result.values(method) for method in record.recorded}
    cells = [
        [method, combination, own[combination]]
        for combination in result.combinations
        for method, own in values.items()
        if math.isfinite(own.get(combination, math.nan))
    ]
    found[HEAT_MAP] = wandb.plot_table(
        HEAT_MAP_PRESET,
        wandb.Table(list(HEAT_MAP_COLUMNS), cells),
        {name: name for name in HEAT_MAP_COLUMNS},
        {"title": metric},
    )
    return found


def pictures(record: SweepRecord) -> dict[str, Any]:
    """The heat map and the pictures of predictions, by key ``sweep/pictures/<kind>/<combination>``."""
    import wandb

    found: dict[str, Any] = {}
    if record.heat_map is not None:
        found["sweep/heat_map"] = wandb.Image(str(record.heat_map))
    for one in record.pictures:
        key = f"sweep/pictures/{one.kind}/{one.combination}"
        found[key] = wandb.Image(str(one.path), caption=f"{one.kind}, {one.combination}")
    return found
