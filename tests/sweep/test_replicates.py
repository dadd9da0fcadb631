"""Metrics of replicates: a slow loop, the short cut for sums, and the coverage of their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_mm.results.bootstrap import percentile_interval, resample_counts
from lightning_mm.sweep.replicates import replicate_metrics


def accuracy(statistics: dict[str, Tensor]) -> dict[str, float]:
    return {"accuracy": statistics["hit"].double().mean().item()}


def ratio(statistics: dict[str, Tensor]) -> dict[str, float]:
    total = statistics["counts"].sum(0).double()
    return {"ratio": (total[0] / total[1]).item()}


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
