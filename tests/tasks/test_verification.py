"""The equal error rate against a slow search over thresholds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_mm.tasks.metrics.verification import equal_error_rate, verification_error


def slow(scores: Tensor, same: Tensor) -> tuple[float, float]:
    """The least and the greatest of the two rates at the threshold at which they are closest."""
    best = (1.0, 0.0, 1.0)
    for threshold in [math.inf, *scores.tolist()]:
        accepted = (scores[~same] >= threshold).float().mean().item()
        refused = (scores[same] < threshold).float().mean().item()
        best = min(best, (abs(accepted - refused), min(accepted, refused), max(accepted, refused)))
    return best[1], best[2]


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("rounded", [False, True])
def test_it_is_where_both_rates_meet(shift: float, rounded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.rand(400, generator=generator) < 0.3
    scores = torch.randn(400, generator=generator) + shift * same
    scores = (2 * scores).round() / 2 if rounded else scores
    low, high = slow(scores, same)
    assert low - 1e-6 <= equal_error_rate(scores, same) <= high + 1e-6
    order = torch.randperm(400, generator=generator)
    assert equal_error_rate(scores[order], same[order]) == equal_error_rate(scores, same)


def test_its_ends() -> None:
    same = torch.tensor([True, True, False, False, False])
    assert equal_error_rate(torch.tensor([4.0, 3, 2, 1, 0]), same) == 0
    assert equal_error_rate(torch.tensor([0.0, 1, 2, 3, 4]), same) == 1
    assert equal_error_rate(torch.zeros(5), same) == 0.5, "a constant says nothing"
    assert math.isnan(equal_error_rate(torch.zeros(5), torch.ones(5, dtype=torch.bool)))


def test_all_pairs_of_two_modalities() -> None:
    first, second = torch.randn(6, 4), torch.randn(5, 4)
    labels = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 2, 2, 1])
    pairs = [(i, j) for i in range(6) for j in range(5)]
    scores = torch.stack([torch.cosine_similarity(first[i], second[j], dim=0) for i, j in pairs])
    same = torch.tensor([bool(labels[0][i] == labels[1][j]) for i, j in pairs])
    assert verification_error(first, second, *labels) == pytest.approx(equal_error_rate(scores, same), abs=1e-6)
    assert verification_error(first, 3 * first, labels[0], labels[0]) == pytest.approx(
        verification_error(first, first, labels[0], labels[0]), abs=1e-6
    )
