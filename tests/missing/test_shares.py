"""ExactShare: exact in every block, fixed over epochs, keyed by everything that makes the table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_mm.errors import LightningMMError
from lightning_mm.missing import ExactShare, SavedTable, save_table
from lightning_mm.modalities import Modalities

NAMES = Modalities(["image", "text"])


@pytest.mark.parametrize("p_missing", [0.0, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("lose", [["image"], ["text"], ["image", "text"], None], ids=str)
@pytest.mark.parametrize("seed", [0, 5])
def test_proportions_are_exact(p_missing: float, lose: list[str] | None, seed: int) -> None:
    drawn = ExactShare(p_missing, lose).draw(NAMES, range(1000), epoch=0, seed=seed)
    lost = lose or list(NAMES)
    each = round(1000 * p_missing) // len(lost)
    assert (~drawn).sum(0).tolist() == [each * (name in lost) for name in NAMES]
    assert drawn.any(1).all(), "no sample loses both"
    for block in drawn.split(20):
        assert (~block).sum().item() == round(20 * p_missing)


def test_three_modalities_share_alike() -> None:
    three = Modalities(["a", "b", "c"])
    drawn = ExactShare(0.6, block=10).draw(three, range(100), epoch=0, seed=0)
    assert (~drawn).sum(0).tolist() == [20, 20, 20]


def test_the_number_of_samples_is_exact_within_a_block_of_any_length() -> None:
    drawn = ExactShare(0.7).draw(NAMES, range(61_142), epoch=0, seed=0)
    assert abs((~drawn).sum().item() - 0.7 * 61_142) < 20
    assert abs((~drawn)[:, 0].sum().item() - 0.35 * 61_142) < 20


def test_a_draw_is_of_the_sample_alone_and_of_no_epoch() -> None:
    policy = ExactShare(0.7)
    whole = policy.draw(NAMES, range(200), epoch=0, seed=3)
    some = torch.tensor([199, 3, 3, 77, 20, 19])
    assert torch.equal(policy.draw(NAMES, some, epoch=9, seed=3), whole[some])
    assert policy.draw(NAMES, [], epoch=0, seed=3).shape == (0, 2)
    positions = (~whole).any(1).view(10, 20)
    assert not torch.equal(positions[0], positions[1]), "every block has its own"


def test_everything_that_makes_the_table_changes_it() -> None:
    policies = [ExactShare(0.7), ExactShare(0.5), ExactShare(0.7, ["text"]), ExactShare(0.7, split="train")]
    policies += [ExactShare(0.7, block=40)]
    draws = [policy.draw(NAMES, range(200), epoch=0, seed=0) for policy in policies]
    draws += [policies[0].draw(NAMES, range(200), epoch=0, seed=1)]
    draws += [policies[0].draw(Modalities(["text", "image"]), range(200), epoch=0, seed=0).flip(1)]
    for number, first in enumerate(draws):
        for second in draws[number + 1 :]:
            assert (first != second).any(1).float().mean() > 0.2
    # naming all of them is what is done by default
    named = ExactShare(0.7, ["image", "text"]).draw(NAMES, range(200), epoch=0, seed=0)
    assert torch.equal(named, draws[0])


def test_the_table_can_be_written(tmp_path: Path) -> None:
    policy = ExactShare(0.9, ["image"], split="test")
    header = save_table(tmp_path / "eta.npz", policy, NAMES, size=60, seed=2)
    assert header["policy"] == "ExactShare(p_missing=0.9, lose=['image'], split='test', block=20)"
    table = SavedTable(str(tmp_path / "eta.npz"))
    read = table.draw(NAMES, range(60), epoch=4, seed=7)
    assert torch.equal(read, policy.draw(NAMES, range(60), epoch=0, seed=2))
    assert (~read).sum(0).tolist() == [54, 0]


@pytest.mark.parametrize(
    ("policy", "names", "message"),
    [
        (ExactShare(0.72), NAMES, "0.72 of 20 samples cannot be divided into 2 equal whole"),
        (ExactShare(0.55), NAMES, "0.55 of 20 samples cannot be divided into 2 equal whole"),
        (ExactShare(0.5, ["sound"]), NAMES, r"distinct modalities out of \['image', 'text'\], .* got \['sound'\]"),
        (ExactShare(0.5, ["text", "text"]), NAMES, "lose must be distinct"),
        (ExactShare(0.5, []), NAMES, "at least one, got"),
        (ExactShare(0.5), Modalities(["image"]), "would leave samples without a modality"),
    ],
)
def test_what_cannot_be_is_told(policy: ExactShare, names: Modalities, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        policy.draw(names, [0], epoch=0, seed=0)
    for wrong in (-0.1, 1.1):
        with pytest.raises(LightningMMError, match="p_missing must be between 0 and 1"):
            ExactShare(wrong)
    with pytest.raises(LightningMMError, match="block must be a whole number of at least 1"):
        ExactShare(0.5, block=0)
