"""Methods that were not run on the same seeds, and seeds that were not run on the same combinations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest

from lightning_mm.results import SweepResult, SweepRow, constant_rows
from lightning_mm.results.robustness import Direction
from lightning_mm.results.tables import sheet

NAMES = ("rgb", "depth", "rgb+depth")


def build(figures: Mapping[str, Mapping[int, Sequence[float | None]]], direction: Direction = "max") -> SweepResult:
    """Method to seed to its figures of rgb, depth and both; ``None`` where it was not run."""
    rows = [
        SweepRow(method, name, name.count("+") + 1, "accuracy", value, 20, seed)
        for method, seeds in figures.items()
        for seed, values in seeds.items()
        for name, value in zip(NAMES, values)
        if value is not None
    ]
    return SweepResult(rows, ["rgb", "depth"], "accuracy", {"accuracy": direction})


SHIFTED = {seed: (0.2 + seed / 10, 0.2 + seed / 10, 0.9) for seed in range(3)}
ADAPTED = {seed: (0.4 + seed / 10, 0.4 + seed / 10, 0.9) for seed in range(3)}


def notes(result: SweepResult, word: str) -> list[str]:
    return [note for note in sheet(result).notes if word in note]


def test_the_gap_compares_the_seeds_that_all_three_share() -> None:
    # Means over all seeds would say (0.5 - 0.3) / (0.6 - 0.3) = 2 / 3.
    result = build({"zero_fill": SHIFTED, "adapted": ADAPTED, "dedicated": {0: (0.6, 0.6, None)}})
    assert result.recovered_gap("adapted") == pytest.approx(0.2 / 0.4)
    assert result.figures("adapted").recovered_gap_per_seed() == pytest.approx({0: 0.5})
    summary = result.summary("adapted")
    assert summary["recovered_gap_seeds"] == [0]
    assert summary["gain_over_zero_fill_seeds"] == [0, 1, 2]
    assert notes(result, "alone") == [
        "recovered gap of adapted: over seed 0 alone, shared with zero_fill and dedicated"
    ]


def test_the_gain_compares_the_seeds_that_both_share() -> None:
    ways: dict[Direction, int] = {"max": 1, "min": -1}
    for direction, sign in ways.items():
        result = build({"zero_fill": SHIFTED, "adapted": {2: ADAPTED[2]}}, direction)
        summary = result.summary("adapted")
        assert summary["gain_over_zero_fill"] == pytest.approx(sign * 0.2)
        assert summary["gain_over_zero_fill_seeds"] == [2]


def test_methods_that_share_no_seed_are_compared_and_the_table_says_so() -> None:
    result = build({"zero_fill": {0: SHIFTED[0]}, "adapted": {1: ADAPTED[0]}, "dedicated": {0: (0.6, 0.6, None)}})
    assert result.recovered_gap("adapted") == pytest.approx(0.5)
    assert result.summary("adapted")["gain_over_zero_fill"] == pytest.approx(0.2)
    assert result.summary("adapted")["gain_over_zero_fill_seeds"] == []
    (note,) = notes(result, "no seed is shared")
    assert note.startswith("recovered gap of adapted: ")


def test_a_constant_stands_for_every_seed() -> None:
    dedicated = {seed: (0.6, 0.6 + seed / 10, None) for seed in range(3)}
    result = build({"zero_fill": SHIFTED, "dedicated": dedicated})
    result.rows += constant_rows("majority", 0.5, "accuracy", like=result)
    assert result.recovered_gap("majority") == pytest.approx((0.5 - 0.3) / (0.65 - 0.3))
    assert notes(result, "alone") == []


def test_a_wrong_gap_of_some_methods_names_them() -> None:
    dedicated = {0: (0.1, 0.1, None), 1: (0.9, 0.9, None)}
    result = build({"zero_fill": SHIFTED, "a": {0: ADAPTED[0]}, "b": {1: ADAPTED[1]}, "dedicated": dedicated})
    assert math.isnan(result.recovered_gap("a"))
    assert result.recovered_gap("b") == pytest.approx(0.2 / 0.6)
    assert notes(result, "no recovered gap") == [
        "no recovered gap of a: dedicated networks are not better than zero_fill"
    ]


def test_a_seed_that_lacks_combinations_is_left_out_of_every_summary() -> None:
    # A killed run of seed 1 has the full combination and one that happens to be easy.
    result = build({"adapted": {0: (0.4, 0.2, 0.8), 1: (0.9, None, 0.6), 2: (0.6, 0.4, 1.0)}})
    assert result.mean("adapted") == pytest.approx(0.4)
    assert result.mean("adapted") == pytest.approx(sum(result.figures("adapted").mean_per_seed().values()) / 2)
    assert result.worst("adapted")[0] == "depth"
    assert result.worst("adapted")[1] == pytest.approx(0.3)
    assert result.full("adapted") == pytest.approx(0.9)
    assert result.drop("adapted") == pytest.approx(0.5)
    figures = result.figures("adapted")
    for figure in (figures.full(), figures.worst(), figures.mean()):
        assert figure.std == pytest.approx(math.sqrt(0.02))
        assert figure.seeds == (0, 2)
    assert result.curve("adapted").tolist() == pytest.approx([0.9, 0.4])
    # A figure of one combination is that of all seeds that have it, and so is a mean that asks for no more.
    assert result.value("adapted", "rgb") == pytest.approx(1.9 / 3)
    assert result.mean("adapted", combinations=["rgb"]) == pytest.approx(1.9 / 3)
    assert notes(result, "lacks") == ["adapted: seed 1 lacks depth; left out of mean, worst, full and drop"]


def test_a_seed_without_the_full_combination_counts_for_the_mean() -> None:
    result = build({"adapted": {0: (0.4, 0.2, 0.8), 1: (0.6, 0.6, None)}})
    assert result.mean("adapted") == pytest.approx(0.45)
    assert result.drop("adapted") == pytest.approx(0.5)
    assert notes(result, "lacks") == ["adapted: seed 1 lacks rgb+depth; left out of worst, full and drop"]


def test_without_a_complete_seed_the_figures_are_of_all() -> None:
    result = build({"dedicated": {0: (0.4, None, None), 1: (None, 0.6, None)}})
    assert result.mean("dedicated") == pytest.approx(0.5)
    assert [note.split(";")[0] for note in notes(result, "every seed of it lacks some")] == [
        "dedicated: seed 0 lacks depth", "dedicated: seed 1 lacks rgb",
    ]  # fmt: skip


def test_a_note_names_a_few_combinations_only() -> None:
    names = ["a", "b", "c"]
    every = ["a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]
    rows = [SweepRow("own", name, name.count("+") + 1, "accuracy", 0.5, 9, 0) for name in every]
    rows += [SweepRow("own", "a", 1, "accuracy", 0.5, 9, 1)]
    (note,) = notes(SweepResult(rows, names, "accuracy"), "lacks")
    assert note == "own: seed 1 lacks b, c, a+b and 3 more; left out of mean, worst, full and drop"
