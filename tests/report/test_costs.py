"""Costs of a prediction in the page: table and charts, and nothing of them for results that do not know them."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest

from lightning_mm.report.costs import cost_table, costs_of, latency, operations, size
from lightning_mm.report.drawing.charts import cost_charts, drop_chart, looks
from lightning_mm.results import SweepResult, constant_rows
from tests.support.sweep_results import small_sweep


def measured() -> SweepResult:
    return replace(
        small_sweep(),
        inference={"zero_fill": {"flops": 2_000_000, "memory": 5000}, "adapted": {"flops": 2_000_000, "memory": 6000}},
        inference_seconds={"zero_fill": 0.0012, "adapted": 0.0015},
    )


def test_the_table_has_all_costs_and_the_mean() -> None:
    result = measured()
    table = cost_table(result, "accuracy")
    assert table is not None
    assert table.columns == ["method", "trained ↓", "training ↓", "operations ↓", "memory ↓", "time ↓", "mean ↑"]
    assert [cell.text for cell in table.rows[1]][:6] == ["adapted", "4 (10.00%)", "1.5 s", "2M", "6 kB", "1.5 ms"]
    rows = list(csv.DictReader(io.StringIO(table.csv().decode())))
    assert [row["flops"] for row in rows] == ["2000000.0"] * 2
    assert [float(row["seconds"]) for row in rows] == [0.0012, 0.0015]
    assert [float(row["mean"]) for row in rows] == [result.mean(one) for one in result.methods]
    assert rows[0]["training"] == "", "zero_fill is not trained"


def test_charts_show_costs_that_differ() -> None:
    result = measured()
    charts = cost_charts(result, "accuracy", looks(result, "accuracy"))
    assert [chart.title for chart in charts] == [
        "Trained parameters and mean",
        "Memory and mean",
        "Time of a prediction and mean",
    ], "operations are the same for both, training is known of one"
    time = charts[-1]
    points = {one.look.method: one.points[0] for one in time.series}
    assert points["zero_fill"].x < points["adapted"].x
    assert points["adapted"].text.startswith("adapted: 1.5 ms, mean ")
    places = {text: x for x, text in time.x_ticks}
    assert places, "an axis has round values"
    assert list(places.values()) == sorted(places.values())


def test_results_of_older_releases_have_no_such_table() -> None:
    result = replace(small_sweep(), inference={}, inference_seconds={})
    assert cost_table(result, "accuracy") is None
    assert list(costs_of(result)) == ["trained", "training"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (operations(1234567.0), "1.23M"),
        (operations(0.0), "0"),
        (size(1234567.0), "1.23 MB"),
        (size(999.9), "1 kB"),
        (size(12.0), "12 B"),
        (latency(0.00123), "1.23 ms"),
        (latency(0.0000456), "45.6 µs"),
        (latency(2.0), "2.0 s"),
        (size(math.nan) + operations(math.nan) + latency(math.nan), "–––"),
    ],
)
def test_units(text: str, expected: str) -> None:
    assert text == expected


def test_a_constant_does_not_press_the_curves_together() -> None:
    result = small_sweep()
    result.rows += constant_rows("majority", 0.01, "accuracy", like=result)
    chart = drop_chart(result, "accuracy", looks(result, "accuracy"))
    assert chart is not None
    assert [one.look.method for one in chart.series] == ["zero_fill", "adapted"]
    assert [one.look.number for one in chart.series] == [1, 2]
    alone = replace(result, rows=[row for row in result.rows if row.method == "majority"])
    chart = drop_chart(alone, "accuracy", looks(alone, "accuracy"))
    assert chart is not None
    assert [one.look.method for one in chart.series] == ["majority"], "unless there is nothing else"


def test_ticks_are_written_as_they_are() -> None:
    result = small_sweep()
    values = iter([0.5, 0.52, 0.6, 0.51, 0.53, 0.61] * 2)
    result.rows = [replace(row, value=next(values)) for row in result.rows]
    chart = drop_chart(result, "accuracy", looks(result, "accuracy"))
    assert chart is not None
    assert [text for _, text in chart.y_ticks] == ["50.0", "52.5", "55.0", "57.5", "60.0", "62.5"]
