"""Figures of robustness by hand and against reference numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lightning_mm.results.robustness import (
    Direction,
    area,
    drop,
    effective_robustness,
    gain,
    mean_over,
    normalised,
    recovered_gap,
    relative_robustness,
    worst_of,
)


def test_by_hand() -> None:
    values = {"a": 0.2, "b": 0.6, "a+b": 0.9}
    assert mean_over(values, ["a", "b"]) == pytest.approx(0.4)
    assert math.isnan(mean_over(values, ["a", "c"]))
    assert math.isnan(mean_over(values, []))
    assert worst_of(values) == ("a", 0.2)
    assert worst_of(values, "min") == ("a+b", 0.9)
    assert math.isnan(worst_of({"a": math.nan})[1])
    assert drop(0.9, 0.4) == pytest.approx(0.5)
    assert drop(0.1, 0.4, "min") == pytest.approx(0.3)
    assert recovered_gap(0.5, 0.4, 0.6) == pytest.approx(0.5)
    assert recovered_gap(0.5, 0.6, 0.4, "min") == pytest.approx(0.5)
    assert gain(0.5, 0.4) == pytest.approx(0.1)
    assert gain(0.5, 0.4, "min") == pytest.approx(-0.1)
    assert area([0.9, 0.4, 0.2]) == pytest.approx((0.9 / 2 + 0.4 + 0.2 / 2) / 2)
    assert area([0.9]) == 0.9


@pytest.mark.parametrize(
    ("zero_fill", "dedicated", "direction"),
    [(0.4, 0.4, "max"), (0.4, 0.3, "max"), (0.3, 0.4, "min"), (0.1 + 0.2, 0.3, "min"), (math.nan, 0.4, "max"),
     (0.4, math.nan, "min")],
)  # fmt: skip
def test_no_gap_to_recover_where_dedicated_networks_are_not_better(
    zero_fill: float, dedicated: float, direction: Direction
) -> None:
    assert math.isnan(recovered_gap(0.5, zero_fill, dedicated, direction))


def test_area_of_a_straight_line_and_of_a_curve_above_its_reference() -> None:
    line = np.linspace(1.0, 0.0, 11)
    assert relative_robustness(line) == pytest.approx(0.5)
    assert effective_robustness(line, line + 0.3) == pytest.approx(0)
    assert effective_robustness([1.0, 0.9], [0.5, 0.3]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="same length"):
        effective_robustness([1.0], [1.0, 2.0])


def test_normalised_turns_with_the_direction() -> None:
    assert normalised(0.3, [0.1, 0.3, 0.5]) == pytest.approx(0.5)
    assert normalised(0.1, [0.1, 0.3, 0.5], "min") == pytest.approx(1)
    assert math.isnan(normalised(0.1, [0.1, 0.1]))


def test_equals_multibench(golden_root: Path) -> None:
    golden = np.load(golden_root / "c4_robustness.npz")
    curves = {key.removeprefix("curve__"): golden[key] for key in golden.files if key.startswith("curve__")}
    mine, late = golden["curve_mine"], curves["LF"]
    assert relative_robustness(mine) == pytest.approx(golden["relative_raw"].item(), rel=1e-9)
    assert effective_robustness(mine, late) == pytest.approx(golden["effective_raw"].item(), rel=1e-9)

    # MultiBench averages early and late fusion with their transformer variants before it compares methods.
    pairs = {name: (curves[name] + curves[f"{name}-Transformer"]) / 2 for name in ("EF", "LF")}
    others = [pairs["EF"], pairs["LF"], curves["MFM"], curves["MulT"]]
    relative = [relative_robustness(curve) for curve in [mine, *others]]
    effective = [effective_robustness(curve, late) for curve in [mine, *others]]
    for name, figures in {"relative": relative, "effective": effective}.items():
        expected = golden[f"{name}_normalized"].item()
        assert normalised(figures[0], figures) == pytest.approx(expected, rel=1e-9)
        expected = golden[f"{name}_normalized_finance"].item()
        assert normalised(figures[0], figures, "min") == pytest.approx(expected, rel=1e-9)
