"""MAR, MNAR and block-wise policies: the shares they state, and that nothing else matters."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_mm import Modalities
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.missing import (
    Blockwise,
    DependsOnField,
    DependsOnModality,
    IndependentMissing,
    MissingnessPolicy,
    MissingRates,
    OnlyComplete,
    SameEveryEpoch,
)

NAMES = Modalities(["rgb", "depth", "audio"])
SIZE = 20_000
RNG = np.random.default_rng(0)
SITE = [str(one) for one in RNG.choice(["A", "B", "C"], SIZE)]
LABEL = [str(one) for one in RNG.integers(0, 4, SIZE)]
SESSION = [f"{place // 50 % 150}" for place in range(SIZE)]
FIELDS: Callable[[str], Sequence[str]] = {"site": SITE, "label": LABEL, "session": SESSION}.__getitem__

MAR = DependsOnField("site", {"A": {"depth": 0.9, "audio": 0.3}, "B": 0.6}, default=0.0)
MNAR = DependsOnField("label", {"0": 0.5, "1": {"rgb": 0.7}, "2": 0.2, "3": {"rgb": 0.5, "depth": 0.5, "audio": 0.9}})
PAIR = DependsOnModality("audio", 0.3, where_present={"depth": 0.1}, where_absent={"depth": 0.6, "rgb": 0.2})
SESSIONS = Blockwise(IndependentMissing(0.4), field="session")
RUNS = Blockwise(MissingRates(0.4), length=7)
NESTED = Blockwise(MAR, field="session")
POLICIES = [MAR, MNAR, PAIR, SESSIONS, RUNS, NESTED, SameEveryEpoch(MNAR)]


def draw(policy: MissingnessPolicy, fields: Callable[[str], Sequence[str]] = FIELDS, **more: int) -> Tensor:
    return policy.bound(fields).draw(NAMES, range(SIZE), **{"epoch": 0, "seed": 3, **more})


def assert_share(missing: Tensor, p: float) -> None:
    """Within four standard deviations of a binomial."""
    size = len(missing)
    assert abs(int(missing.sum()) - size * p) <= 4 * math.sqrt(size * p * (1 - p))


def where(values: Sequence[str], value: str) -> Tensor:
    return torch.tensor([one == value for one in values])


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_draw_is_of_seed_index_epoch_and_own_field_alone(policy: MissingnessPolicy) -> None:
    bound, whole = policy.bound(FIELDS), draw(policy)
    assert whole.any(1).all()
    index = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))[:300]
    assert torch.equal(bound.draw(NAMES, index, epoch=0, seed=3), whole[index])
    one_by_one = [bound.draw(NAMES, [place], epoch=0, seed=3) for place in range(20)]
    assert torch.equal(torch.cat(one_by_one), whole[:20])
    assert torch.equal(pickle.loads(pickle.dumps(bound)).draw(NAMES, range(SIZE), epoch=0, seed=3), whole)
    assert bound.draw(NAMES, [], epoch=0, seed=0).shape == (0, 3)
    assert (draw(policy, seed=4) != whole).any(1).float().mean() > 0.1
    same_in_all = isinstance(policy, SameEveryEpoch) or policy is RUNS  # MissingRates is a hard table
    assert torch.equal(draw(policy, epoch=1), whole) == same_in_all


def test_shares_of_a_field_are_those_asked_for() -> None:
    expected = {
        "A": (0.0, 0.9, 0.3),
        "B": (0.6, 0.6, 0.6),
        "C": (0.0, 0.0, 0.0),
    }
    missing = ~draw(MAR)
    for value, shares in expected.items():
        for column, share in enumerate(shares):
            assert_share(missing[where(SITE, value), column], share)


def test_shares_of_a_label_are_those_asked_for_and_so_is_their_mean() -> None:
    expected = {"0": (0.5, 0.5, 0.5), "1": (0.7, 0.0, 0.0), "2": (0.2, 0.2, 0.2), "3": (0.5, 0.5, 0.9)}
    missing = ~draw(MNAR)
    for value, shares in expected.items():
        for column, share in enumerate(shares):
            assert_share(missing[where(LABEL, value), column], share)
    counts = {value: LABEL.count(value) / SIZE for value in expected}
    for column in range(3):
        assert_share(missing[:, column], sum(counts[value] * expected[value][column] for value in expected))


@pytest.mark.parametrize(("policy", "own"), [(MAR, "site"), (MNAR, "label"), (SESSIONS, "session"), (PAIR, "")])
def test_it_depends_on_its_field_and_on_nothing_else(policy: MissingnessPolicy, own: str) -> None:
    asked: list[str] = []

    def permuted(kept: str) -> Callable[[str], Sequence[str]]:
        def fields(name: str) -> Sequence[str]:
            asked.append(name)
            values = FIELDS(name)
            return values if name == kept else [values[place] for place in np.random.default_rng(5).permutation(SIZE)]

        return fields

    assert torch.equal(draw(policy, permuted(own)), draw(policy)), "all other fields permuted"
    assert set(asked) <= {own}
    if own:
        changed = draw(policy, permuted("none"))
        same = torch.tensor([one == other for one, other in zip(permuted("none")(own), FIELDS(own))])
        assert not torch.equal(changed, draw(policy))
        if policy is not SESSIONS:  # where the value is the same, so is the draw
            assert torch.equal(changed[same], draw(policy)[same])


def test_within_a_value_labels_say_nothing() -> None:
    """Under MAR the share is that of the site for every label, as labels are independent of sites here."""
    missing, of_site = ~draw(MAR), where(SITE, "A")
    for value in "0123":
        assert_share(missing[of_site & where(LABEL, value), 1], 0.9)


def test_shares_where_another_modality_is_absent() -> None:
    missing = ~draw(PAIR)
    audio = missing[:, 2]
    assert_share(audio, 0.3)
    assert_share(missing[~audio, 1], 0.1)
    assert_share(missing[audio, 1], 0.6)
    assert_share(missing[audio, 0], 0.2)
    assert not missing[~audio, 0].any()
    # what decides does not follow from what the others lost
    assert_share(audio[~missing[:, 1]], 0.3 * 0.4 / (0.3 * 0.4 + 0.7 * 0.9))


def test_blocks_lack_the_same_and_each_is_drawn_once() -> None:
    drawn = draw(SESSIONS)
    kinds = {value: {tuple(row) for row in drawn[where(SESSION, value)].tolist()} for value in set(SESSION)}
    assert all(len(rows) == 1 for rows in kinds.values())
    assert len({row for rows in kinds.values() for row in rows}) == 7, "blocks differ"
    runs = draw(RUNS)
    assert all(torch.equal(runs[start : start + 7], runs[start].expand(7, 3)) for start in range(0, SIZE - 7, 7))
    firsts = runs[::7]
    for column in range(3):
        assert_share(~firsts[:, column], 0.4)
    # a session of the nested one has the settings of the site of its first sample
    sites = [SITE[SESSION.index(value)] for value in sorted(set(SESSION))]
    rows = {value: draw(NESTED)[SESSION.index(value)] for value in sorted(set(SESSION))}
    assert all(row.all() for site, row in zip(sites, rows.values()) if site == "C")
    assert not all(row.all() for site, row in zip(sites, rows.values()) if site == "B")


def test_blocks_do_not_depend_on_the_order_of_samples() -> None:
    order = np.random.default_rng(1).permutation(SIZE)
    shuffled = draw(SESSIONS, lambda name: [FIELDS(name)[place] for place in order])
    assert torch.equal(shuffled, draw(SESSIONS)[torch.from_numpy(order)])


def test_of_fewer_modalities_the_draw_is_that_of_all() -> None:
    part = Modalities(["audio", "rgb"])
    every = "rgb+depth+audio"
    pairs: list[tuple[MissingnessPolicy, MissingnessPolicy]] = [
        (MNAR, DependsOnField("label", MNAR.p_missing, of=every)),
        (PAIR, DependsOnModality("audio", 0.3, {"depth": 0.1}, {"depth": 0.6, "rgb": 0.2}, of=every)),
    ]
    for plain, with_of in pairs:
        drawn = with_of.bound(FIELDS).draw(part, range(SIZE), epoch=0, seed=3)
        assert torch.equal(drawn, draw(plain)[:, [2, 0]])
        assert not drawn.any(1).all(), "some have neither; a hard table leaves these out"
        with pytest.raises(LightningMMError, match=r"name all in of, such as of='audio\+video'"):
            plain.bound(FIELDS).draw(Modalities(["rgb"]), [0], epoch=0, seed=0)


def test_the_same_in_every_epoch_and_not_what_is_dropped() -> None:
    dropped, hidden = draw(MNAR), draw(SameEveryEpoch(MNAR))
    independent = (dropped[:, 0] == hidden[:, 0]).float().mean()
    assert independent < 0.8
    complete = OnlyComplete(SameEveryEpoch(MNAR)).bound(FIELDS).draw(NAMES, range(SIZE), epoch=2, seed=3)
    assert torch.equal(complete.all(1), hidden.all(1))


def test_a_field_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_text("patient,age,site\np1,60,A\np2,70,B\np2/7,70,A\n")
    policy = DependsOnField("site", {"A": {"rgb": 1.0}, "B": 0.0}, table=str(path))
    bound = policy.bound({"id": ["p1/0", "p2/0", "p2/7", "p2/8"]}.__getitem__)
    assert bound.draw(NAMES, range(4), epoch=0, seed=0)[:, 0].tolist() == [False, True, False, True]
    blocks = Blockwise(IndependentMissing(0.5), field="site", table=str(path))
    drawn = blocks.bound({"id": ["p1/0", "p2/0", "p2/7", "p2/8"]}.__getitem__).draw(NAMES, range(4), epoch=0, seed=0)
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    with pytest.raises(LightningMMError, match="lacks 1 of 2 samples, 'p3' for one"):
        policy.bound({"id": ["p1", "p3"]}.__getitem__)
    for text, message in {
        "patient,age\np1,60\n": r"one headed 'site'.*the columns \['age'\]",
        "patient,site\np1,A\np1,B\n": "row 3: 'p1' is there twice",
        "patient,site\np1\n": "row 2: expected 2 cells, got 1",
    }.items():
        path.write_text(text)
        with pytest.raises(LightningMMError, match=message):
            policy.bound({"id": ["p1"]}.__getitem__)
    path.unlink()
    with pytest.raises(DataNotFoundError, match="no table of 'site'"):
        policy.bound({"id": ["p1"]}.__getitem__)


def test_mistakes() -> None:
    with pytest.raises(LightningMMError, match="p_missing of 'A' must be between 0 and 1"):
        DependsOnField("site", {"A": 1.2})
    with pytest.raises(LightningMMError, match="names no value of the field"):
        DependsOnField("site", {})
    with pytest.raises(LightningMMError, match="call bound first"):
        MAR.draw(NAMES, [0], epoch=0, seed=0)
    with pytest.raises(LightningMMError, match="call bound first"):
        SESSIONS.draw(NAMES, [0], epoch=0, seed=0)
    with pytest.raises(LightningMMError, match="name 'B' too, or give a default for all others"):
        DependsOnField("site", {"A": 0.1}).bound(FIELDS)
    with pytest.raises(LightningMMError, match="no sample has one of these"):
        DependsOnField("site", {"D": 0.1}, default=0.0).bound(FIELDS)
    with pytest.raises(LightningMMError, match="names the modality 'radar'"):
        draw(DependsOnField("site", {"A": {"radar": 0.1}}, default=0.0))
    with pytest.raises(LightningMMError, match="would leave samples without a modality"):
        draw(DependsOnField("site", {"A": 0.8}, default=0.0))
    with pytest.raises(LightningMMError, match="would leave samples without a modality"):
        draw(DependsOnModality("audio", 0.5, 0.0, 0.6))
    with pytest.raises(LightningMMError, match="leave 'audio' out of it"):
        DependsOnModality("audio", 0.5, {"audio": 0.1}, 0.0)
    with pytest.raises(LightningMMError, match=r"expected a field .* or a length"):
        Blockwise(MAR, field="site", length=3)
    with pytest.raises(LightningMMError, match="Blockwise: length"):
        Blockwise(MAR, length=0)


def test_a_field_is_read_once_and_not_for_each_block() -> None:
    asked: list[str] = []

    def fields(name: str) -> Sequence[str]:
        asked.append(name)
        return FIELDS(name)

    NESTED.bound(fields)
    assert asked == ["session", "site"]
