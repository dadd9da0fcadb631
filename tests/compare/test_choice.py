"""The tuned value with the best figure on validation data is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from lightning_mm.compare.choice import choose
from lightning_mm.compare.plan import Plan
from lightning_mm.results import SweepResult, SweepRow, write_csv, write_json
from tests.support.studies import COMBINATIONS, read


@pytest.mark.parametrize(("direction", "best"), [("max", 0.2), ("min", 0.1)])
def test_the_direction_of_the_metric_decides_which_value_is_best(
    tmp_path: Path, direction: Literal["max", "min"], best: float
) -> None:
    methods = {"adapted": {"configs": ["ssf.yaml"], "tune": {"model.lr": [0.3, 0.1, 0.2]}}}
    plan = Plan(read(tmp_path, methods=methods, out=str(tmp_path / "out"), seeds=[0]))
    figures = {"lr=0.1": 1.0, "lr=0.2": 3.0, "lr=0.3": 2.0}
    steps = plan.steps({})
    for step in steps:
        if step.stage == "val":
            figure = next(figure for value, figure in figures.items() if value in str(step.folder))
            rows = [SweepRow("adapted", name, name.count("+") + 1, "figure", figure, 9, 0) for name in COMBINATIONS]
            result = SweepResult(rows, ["a", "b", "c"], "figure", directions={"figure": direction})
            write_csv(result, step.folder / "sweep_val" / "sweep.csv")
            write_json(result, step.folder / "sweep_val" / "sweep.json")
    choice = choose(plan, {step.marker: {} for step in steps}, {})
    assert choice == {"adapted": {"key": "model.lr", "value": best, "means": {"0.3": 2.0, "0.1": 1.0, "0.2": 3.0}}}
