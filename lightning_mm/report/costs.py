"""What a method costs: trained parameters, training, and one prediction, as a table."""

from __future__ import annotations

import math
from typing import Any

from lightning_mm.report.tables import DOWN, Cell, Table, arrow, spread_columns
from lightning_mm.results.result import SweepResult
from lightning_mm.results.texts import NOTHING, duration, is_percent, per_combination, short_count, trained, with_spread

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def costs_of(result: SweepResult) -> dict[str, dict[str, float]]:
    """Cost to method to its value, for each cost that some method has, in the order of the page."""
    found = {
        "trained": {method: float(own["trained"]) for method, own in result.parameters.items() if "trained" in own},
        "training": dict(result.seconds),
        **{
            key: {method: float(own[key]) for method, own in result.inference.items() if key in own}
            for key in ("flops", "memory")
        },
        "seconds": dict(result.inference_seconds),
    }
    return {name: values for name, values in found.items() if values}


def cost_table(result: SweepResult, metric: str) -> Table | None:
    """Methods down, costs and the mean across; ``None`` if nothing is known of a prediction."""
    known, percent = costs_of(result), is_percent(result, metric)
    if not known.keys() & {"flops", "memory", "seconds"}:
        return None
    texts = {
        "trained": ("trained", lambda method: trained(result.parameters.get(method, {}))),
        "training": ("training", lambda method: duration(result.seconds.get(method, math.nan))),
        "flops": ("operations", lambda method: operations(known["flops"].get(method, math.nan))),
        "memory": ("memory", lambda method: size(known["memory"].get(method, math.nan))),
        "seconds": ("time", lambda method: latency(known["seconds"].get(method, math.nan))),
    }
    columns = {name: one for name, one in texts.items() if name in known}
    if any("per_combination" in own for own in result.parameters.values()):
        added = ("per combination", lambda method: per_combination(result.parameters.get(method, {})))
        columns = {"trained": columns.pop("trained"), "per_combination": added, **columns}
    rows, records = [], []
    for method in result.methods:
        mean = result.figures(method, metric).mean()
        rows.append(
            [Cell(method), *(Cell(text(method)) for _, text in columns.values()), Cell(with_spread(mean, percent))]
        )
        record: dict[str, Any] = {"method": method, "metric": metric, **spread_columns("mean", mean)}
        record |= {name: values[method] for name, values in known.items() if method in values}
        records.append(record)
    notes = [
        "operations, memory and time of one prediction, measured on a single sample with one modality: operations of "
        "matrix products, convolutions and attention (a multiplication and an addition are two); memory of the tensors "
        "that are alive at once, without weights and inputs; time of the sample alone"
    ]
    header = [
        "method",
        *(f"{label} {DOWN}" for label, _ in columns.values()),
        f"mean {arrow(result.direction(metric))}",
    ]
    return Table("costs", f"{metric}: costs of the methods", header, rows, records, notes)


def operations(value: float) -> str:
    """``1234567.0`` as ``1.23M``; a dash if it is not known."""
    return short_count(round(value)) if math.isfinite(value) else NOTHING


def size(value: float) -> str:
    """Bytes: ``1234567.0`` as ``1.23 MB``; a dash if it is not known."""
    if not math.isfinite(value):
        return NOTHING
    for unit, name in UNITS:
        if value >= unit * 0.9995:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f} B"


def latency(value: float) -> str:
    """Seconds: ``0.00123`` as ``1.23 ms``; a dash if it is not known."""
    if not math.isfinite(value):
        return NOTHING
    if value >= 0.9995:
        return duration(value)
    return f"{value * 1e3:.3g} ms" if value >= 0.9995e-3 else f"{value * 1e6:.3g} µs"
