"""Policies: pure functions of (seed, index, epoch), with exactly the law that they state."""

import itertools
import pickle

import numpy as np
import pytest
import torch

from lightning_mm.errors import LightningMMError
from lightning_mm.missing import (
    Complete,
    FixedCombination,
    IndependentMissing,
    MissingnessPolicy,
    RotatingCombinations,
    UniformCombinations,
)
from lightning_mm.missing.policies import random_uniform, split_mix
from lightning_mm.modalities import Modalities

MODALITIES = Modalities(["rgb", "depth", "thermal"])
POLICIES: list[MissingnessPolicy] = [
    Complete(),
    FixedCombination("thermal+rgb"),
    UniformCombinations(),
    UniformCombinations(["rgb", "rgb+depth"]),
    UniformCombinations(include_full=False),
    RotatingCombinations(),
    IndependentMissing(0.5),
    IndependentMissing({"rgb": 0.9, "depth": 1.0}, min_present=2),
]


def _chi_square_bound(freedom: int) -> float:
    """The 1 - 1e-4 quantile of chi-square (Wilson and Hilferty 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3


def _assert_law(policy: MissingnessPolicy, law: dict[tuple[bool, ...], float], epoch: int = 0) -> None:
    size = 20_000
    drawn = [tuple(row) for row in policy.draw(MODALITIES, range(size), epoch=epoch, seed=11).tolist()]
    assert set(drawn) <= {row for row, p in law.items() if p > 0}
    statistic = sum((drawn.count(row) - size * p) ** 2 / (size * p) for row, p in law.items() if p > 0)
    assert statistic < _chi_square_bound(max(1, sum(p > 0 for p in law.values()) - 1))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_draw_depends_on_seed_index_and_epoch_only(policy: MissingnessPolicy) -> None:
    index = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    whole = policy.draw(MODALITIES, range(200), epoch=3, seed=7)
    assert whole.shape == (200, 3)
    assert whole.dtype == torch.bool
    assert whole.any(1).all()
    assert torch.equal(policy.draw(MODALITIES, index, epoch=3, seed=7), whole[index])
    one_by_one = [policy.draw(MODALITIES, [i], epoch=3, seed=7) for i in range(40)]
    assert torch.equal(torch.cat(one_by_one), whole[:40])
    assert torch.equal(pickle.loads(pickle.dumps(policy)).draw(MODALITIES, range(200), epoch=3, seed=7), whole)
    assert policy.draw(MODALITIES, [], epoch=0, seed=0).shape == (0, 3)


@pytest.mark.parametrize("policy", [UniformCombinations(), IndependentMissing(0.5)], ids=repr)
def test_epochs_and_seeds_differ(policy: MissingnessPolicy) -> None:
    draws = [policy.draw(MODALITIES, range(200), epoch=e, seed=s) for e, s in [(0, 0), (1, 0), (0, 1), (1, 1), (0, -1)]]
    for first, second in itertools.combinations(draws, 2):
        assert 0.02 < (first == second).all(1).float().mean() < 0.4  # independent rows agree by chance only


def test_uniform_law() -> None:
    rows = [tuple(row) for row in MODALITIES.masks().tolist()]
    _assert_law(UniformCombinations(), dict.fromkeys(rows, 1 / 7))
    _assert_law(UniformCombinations(include_full=False), dict.fromkeys(rows[:-1], 1 / 6), epoch=2)
    _assert_law(UniformCombinations(["depth+rgb", "thermal"]), {rows[3]: 0.5, rows[2]: 0.5})


@pytest.mark.parametrize(
    ("p_missing", "min_present"),
    [
        (0.5, 1),
        (0.9, 1),
        (0.3, 2),
        (0.0, 1),
        (0.7, 3),
        ({"rgb": 0.2, "depth": 0.7}, 1),
        ({"rgb": 1.0, "thermal": 0.6}, 1),
    ],
)
def test_independent_law_is_the_conditional_one(p_missing: float | dict[str, float], min_present: int) -> None:
    """Against enumeration of all rows, those with too few modalities struck out."""
    law = {}
    for row in itertools.product([False, True], repeat=3):
        q = [p_missing.get(name, 0.0) if isinstance(p_missing, dict) else p_missing for name in MODALITIES]
        probability = float(np.prod([1 - p if present else p for present, p in zip(row, q)]))
        law[row] = probability if sum(row) >= min_present else 0.0
    total = sum(law.values())
    _assert_law(IndependentMissing(p_missing, min_present), {row: p / total for row, p in law.items()})


def test_rotation_is_balanced_and_moves_with_the_epoch() -> None:
    policy = RotatingCombinations()
    first = policy.draw(MODALITIES, range(15), epoch=0, seed=0)
    assert torch.equal(first, MODALITIES.masks().repeat(3, 1)[:15])
    assert torch.equal(policy.draw(MODALITIES, range(14), epoch=1, seed=9), first[1:])
    only = RotatingCombinations(["rgb+depth+thermal", "rgb"], include_full=False).draw(
        MODALITIES, [0, 1], epoch=0, seed=0
    )
    assert only.tolist() == [[True, False, False], [True, True, True]]


def test_fixed_and_complete() -> None:
    assert (
        FixedCombination("thermal+rgb").draw(MODALITIES, [4, 5], epoch=1, seed=1).tolist() == [[True, False, True]] * 2
    )
    assert Complete().draw(MODALITIES, torch.tensor([4]), epoch=0, seed=0).tolist() == [[True] * 3]


def test_split_mix_reference_values() -> None:
    """The first outputs of the reference C code (Vigna) from state 1234567."""
    states = np.uint64(1234567) + np.arange(5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert split_mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_random_numbers_are_uniform_and_streams_uncorrelated() -> None:
    numbers = random_uniform(3, 5, range(20_000), 4)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        counts = np.histogram(column, bins=32, range=(0, 1))[0]
        assert ((counts - 625) ** 2 / 625).sum() < _chi_square_bound(31)
    correlation = np.corrcoef(np.concatenate([numbers.T, random_uniform(3, 6, range(20_000), 2).T]))
    assert np.abs(correlation - np.eye(6)).max() < 0.03


def test_repr_shows_the_settings() -> None:
    assert repr(IndependentMissing(0.5)) == "IndependentMissing(p_missing=0.5, min_present=1)"
    assert repr(Complete()) == "Complete()"


def test_errors_name_expected_and_came() -> None:
    with pytest.raises(LightningMMError, match=r"between 0 and 1, got 1\.5"):
        IndependentMissing(1.5)
    with pytest.raises(LightningMMError, match="min_present must be a whole number of at least 1, got 0"):
        IndependentMissing(0.5, min_present=0)
    cases: list[tuple[MissingnessPolicy, str]] = [
        (IndependentMissing({"lidar": 0.5}), "unknown modality 'lidar'; expected names out of"),
        (IndependentMissing(1.0), r"never leaves 1 of \['rgb', 'depth', 'thermal'\] present"),
        (IndependentMissing(0.5, min_present=4), "never leaves 4 of"),
        (FixedCombination("rgb+lidar"), "unknown modality 'lidar'"),
        (UniformCombinations(["lidar"]), "unknown modality 'lidar'"),
    ]
    for policy, message in cases:
        with pytest.raises(LightningMMError, match=message):
            policy.draw(MODALITIES, [0], epoch=0, seed=0)
    with pytest.raises(LightningMMError, match="no incomplete combination"):
        UniformCombinations(include_full=False).draw(Modalities(["rgb"]), [0], epoch=0, seed=0)
