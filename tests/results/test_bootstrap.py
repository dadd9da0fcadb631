"""Resampling, and intervals of figures that are resampled together."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_mm.results.bootstrap import Bootstrap, resample_counts
from lightning_mm.results.robustness import Direction


def test_counts_are_draws_with_replacement() -> None:
    counts = resample_counts(9, 4000, seed=1)
    assert counts.shape == (4000, 9)
    assert (counts.sum(1) == 9).all()
    # Binomial(9, 1/9): mean 1, variance 8/9.
    assert counts.mean(0) == pytest.approx(np.ones(9), abs=0.06)
    assert counts.var() == pytest.approx(8 / 9, abs=0.03)
    np.testing.assert_array_equal(counts, resample_counts(9, 4000, seed=1))
    assert (counts != resample_counts(9, 4000, seed=2)).any()


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
