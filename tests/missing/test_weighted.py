"""Weighted combinations: the law that the weights state, as a pure function of (seed, index, epoch)."""

from __future__ import annotations

import pickle

import pytest
import torch

from lightning_mm.errors import LightningMMError
from lightning_mm.missing import UniformCombinations, WeightedCombinations
from lightning_mm.modalities import Modalities

NAMES = Modalities(["rgb", "depth", "thermal"])
SIZE = 20_000
POLICIES = [
    WeightedCombinations({"thermal+depth": 4.0, "rgb": 0.5}),
    WeightedCombinations({"depth": 3.0, "rgb": 0.0}, include_full=False),
    WeightedCombinations({"rgb+depth+thermal": 2.0, "depth": 1.0}, default=0.0, include_full=False),
]
LAWS = [
    {**dict.fromkeys(NAMES.combinations(), 1), "depth+thermal": 4, "rgb": 0.5},
    {"depth": 3, "thermal": 1, "rgb+depth": 1, "rgb+thermal": 1, "depth+thermal": 1},
    {"depth": 1, "rgb+depth+thermal": 2},
]


@pytest.mark.parametrize(("policy", "law"), list(zip(POLICIES, LAWS)), ids=[repr(one) for one in POLICIES])
def test_frequencies_are_within_binomial_bounds(policy: WeightedCombinations, law: dict[str, float]) -> None:
    drawn = [NAMES.name(row) for row in policy.draw(NAMES, range(SIZE), epoch=2, seed=11)]
    assert set(drawn) == set(law)  # one of weight 0 never comes
    for name, weight in law.items():
        p = weight / sum(law.values())
        assert policy.probabilities(NAMES)[name] == pytest.approx(p)
        assert abs(drawn.count(name) - SIZE * p) < 4.5 * (SIZE * p * (1 - p)) ** 0.5, name


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_draw_depends_on_seed_index_and_epoch_only(policy: WeightedCombinations) -> None:
    index = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    whole = policy.draw(NAMES, range(200), epoch=3, seed=7)
    assert whole.shape == (200, 3)
    assert whole.dtype == torch.bool
    assert torch.equal(policy.draw(NAMES, index, epoch=3, seed=7), whole[index])
    assert torch.equal(torch.cat([policy.draw(NAMES, [i], epoch=3, seed=7) for i in range(20)]), whole[:20])
    assert torch.equal(pickle.loads(pickle.dumps(policy)).draw(NAMES, range(200), epoch=3, seed=7), whole)
    assert policy.draw(NAMES, [], epoch=0, seed=0).shape == (0, 3)
    for epoch, seed in ((4, 7), (3, 8)):
        assert not torch.equal(policy.draw(NAMES, range(200), epoch=epoch, seed=seed), whole)


@pytest.mark.parametrize("include_full", [True, False])
def test_equal_weights_are_the_uniform_policy(include_full: bool) -> None:
    uniform, weighted = UniformCombinations(include_full=include_full), WeightedCombinations({}, 0.1, include_full)
    draws = [policy.draw(NAMES, range(500), epoch=1, seed=1) for policy in (uniform, weighted)]
    assert torch.equal(*draws)


def test_a_modality_alone() -> None:
    assert WeightedCombinations({}).draw(Modalities(["rgb"]), [0, 1], epoch=0, seed=0).all()


def test_errors_name_expected_and_came() -> None:
    for weights, default in (({"rgb": -1.0}, 1.0), ({"rgb": float("nan")}, 1.0), ({}, float("inf"))):
        with pytest.raises(LightningMMError, match=r"weight of '(rgb|default)' must be a number of at least 0, got"):
            WeightedCombinations(weights, default)
    cases = [
        (WeightedCombinations({"rgb+lidar": 1.0}), NAMES, "unknown modality 'lidar'; expected names out of"),
        (WeightedCombinations({"rgb+depth": 1.0, "depth+rgb": 2.0}), NAMES, "name the combination 'rgb\\+depth' twice"),
        (WeightedCombinations({"rgb": 0.0}, default=0.0), NAMES, "have weight 0 in WeightedCombinations"),
        (WeightedCombinations({}, include_full=False), Modalities(["rgb"]), "give one of them a weight above 0"),
    ]
    for policy, names, message in cases:
        with pytest.raises(LightningMMError, match=message):
            policy.draw(names, [0], epoch=0, seed=0)
