"""Intervals: coverage, pairing, the fast path for sums, and a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_mm.results.bootstrap import Bootstrap, percentile_interval, replicate_metrics, resample_counts
from lightning_mm.results.robustness import Direction


def accuracy(statistics: dict[str, Tensor]) -> dict[str, float]:
    return {"accuracy": statistics["hit"].double().mean().item()}


def ratio(statistics: dict[str, Tensor]) -> dict[str, float]:
    total = statistics["counts"].sum(0).double()
    return {"ratio": (total[0] / total[1]).item()}


def test_counts_are_draws_with_replacement() -> None:
    counts = resample_counts(9, 4000, seed=1)
    assert counts.shape == (4000, 9)
    assert (counts.sum(1) == 9).all()
    # Binomial(9, 1/9): mean 1, variance 8/9.
    assert counts.mean(0) == pytest.approx(np.ones(9), abs=0.06)
    assert counts.var() == pytest.approx(8 / 9, abs=0.03)
    np.testing.assert_array_equal(counts, resample_counts(9, 4000, seed=1))
    assert (counts != resample_counts(9, 4000, seed=2)).any()


def test_replicates_equal_a_slow_loop() -> None:
    hit = torch.tensor([1, 0, 1, 1, 0])
    counts = resample_counts(5, 30, seed=0)
    found = replicate_metrics(accuracy, {"hit": hit}, counts)["accuracy"]
    slow = [sum(int(hit[i]) * int(c) for i, c in enumerate(row)) / sum(int(c) for c in row) for row in counts]
    assert found == pytest.approx(slow)


def test_sums_are_a_short_cut_with_the_same_result() -> None:
    statistics = {"counts": torch.randint(1, 50, (7, 2), generator=torch.Generator().manual_seed(0))}
    counts = resample_counts(7, 40, seed=3)
    slow = replicate_metrics(ratio, statistics, counts)["ratio"]
    fast = replicate_metrics(ratio, statistics, counts, summable=True)["ratio"]
    np.testing.assert_array_equal(slow, fast)


def test_a_replicate_without_samples_has_no_figure() -> None:
    counts = np.array([[0, 0], [1, 0], [1, 2]])
    found = replicate_metrics(accuracy, {"hit": torch.tensor([1, 0])}, counts)["accuracy"]
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx([1, 1 / 3])
    assert percentile_interval(np.array([math.nan])) is None


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for trial in range(100):
        hit = (torch.rand(60, generator=generator) < 0.7).long()
        values = replicate_metrics(accuracy, {"hit": hit}, resample_counts(60, 200, seed=trial), summable=False)
        low, high = percentile_interval(values["accuracy"], 0.9) or (1.0, 0.0)
        inside += low <= 0.7 <= high
    # Binomial(100, 0.9) lies in 80 to 98 with more than 99 %; the bootstrap is a little too narrow at n = 60.
    assert 80 <= inside <= 98


def test_interval_of_a_mean_is_as_wide_as_the_normal_law_says() -> None:
    hit = (torch.arange(400) % 2).long()
    values = replicate_metrics(accuracy, {"hit": hit}, resample_counts(400, 1000, seed=0))["accuracy"]
    low, high = percentile_interval(values) or (1.0, 0.0)
    half = 1.96 * math.sqrt(0.25 / 400)
    assert low == pytest.approx(0.5 - half, abs=0.01)
    assert high == pytest.approx(0.5 + half, abs=0.01)


def test_pairing_makes_differences_sharper_than_their_parts() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 500)
    found = Bootstrap("key", {("a", "x", "m"): 0.5 + noise, ("b", "x", "m"): 0.4 + noise, ("b", "y", "m"): 0.2 - noise})
    low, high = found.difference_interval("a", "b", "m", ["x"]) or (0.0, 1.0)
    assert (low, high) == pytest.approx((0.1, 0.1))
    assert found.mean_interval("b", "m", ["x", "y"]) == pytest.approx((0.3, 0.3))
    assert found.mean_interval("a", "m", ["x", "y"]) is None
    assert found.mean_interval("a", "m", []) is None
    assert found.interval("a", "z", "m") is None


def test_a_gap_that_may_not_be_there_has_no_interval() -> None:
    # Of 200 replicates the gap is not there in `wrong`; 2.5 % are 5.
    def interval(wrong: int, direction: Direction) -> tuple[float, float] | None:
        sign = 1.0 if direction == "max" else -1.0
        top = np.where(np.arange(200) < wrong, 0.3, 0.6)
        values = {"zero": np.full(200, 0.4), "own": np.full(200, 0.5), "top": top}
        found = Bootstrap("key", {(name, "x", "m"): sign * own for name, own in values.items()})
        return found.recovered_gap_interval("own", "m", ["x"], "zero", "top", direction)

    ways: tuple[Direction, Direction] = ("max", "min")
    for direction in ways:
        assert interval(0, direction) == pytest.approx((0.5, 0.5))
        # The few replicates without a gap do not pull the interval below zero.
        assert interval(5, direction) == pytest.approx((0.5, 0.5))
        assert interval(6, direction) is None
        assert interval(200, direction) is None


def test_key_tells_samples_replicates_and_seed_apart() -> None:
    index = np.arange(5)
    keys = {
        Bootstrap.key_of(index, 10, 0),
        Bootstrap.key_of(index + 1, 10, 0),
        Bootstrap.key_of(index, 11, 0),
        Bootstrap.key_of(index, 10, 1),
    }
    assert len(keys) == 4
    assert Bootstrap.key_of(np.arange(5), 10, 0) in keys
