"""Modalities: the order of combinations, parsing and masks agree with each other."""

import itertools

import pytest
import torch

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities, check_mask, check_rows

NAMES = ["rgb", "depth", "thermal"]


def test_combinations_are_ordered_by_size_then_position() -> None:
    modalities = Modalities(NAMES)
    assert modalities.combinations() == (
        "rgb",
        "depth",
        "thermal",
        "rgb+depth",
        "rgb+thermal",
        "depth+thermal",
        "rgb+depth+thermal",
    )
    assert modalities.full == modalities.combinations()[-1]
    assert modalities.incomplete() == modalities.combinations()[:-1]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_there_are_two_to_the_m_minus_one_distinct_combinations(count: int) -> None:
    modalities = Modalities([f"m{i}" for i in range(count)])
    masks = modalities.masks()
    assert masks.shape == (2**count - 1, count)
    assert masks.dtype == torch.bool
    assert masks.any(1).all()
    assert sorted(modalities.code(masks).tolist()) == list(range(1, 2**count))


def test_name_mask_and_parse_are_inverse_to_each_other() -> None:
    modalities = Modalities(NAMES)
    for combination in modalities.combinations():
        mask = modalities.mask(combination)
        assert modalities.name(mask) == combination == modalities.canonical(combination)
        assert [name for name, flag in zip(NAMES, mask) if flag] == list(modalities.parse(combination))
        for order in itertools.permutations(combination.split("+")):
            assert modalities.canonical("+".join(order)) == combination
    assert modalities.name([False, False, False]) == ""


def test_select_sorts_and_removes_repeats() -> None:
    modalities = Modalities(NAMES)
    assert modalities.select(["thermal+rgb", "depth", "rgb+thermal"]) == ("depth", "rgb+thermal")
    assert modalities.select(None) == modalities.combinations()
    assert modalities.select(list(reversed(modalities.combinations()))) == modalities.combinations()


def test_it_is_a_sequence_with_equality() -> None:
    modalities = Modalities(NAMES)
    assert list(modalities) == NAMES
    assert len(modalities) == 3
    assert modalities[1] == "depth"
    assert modalities.index("thermal") == 2
    assert "rgb" in modalities
    assert "x" not in modalities
    assert modalities == Modalities(tuple(NAMES))
    assert hash(modalities) == hash(Modalities(NAMES))
    assert modalities != Modalities(NAMES[::-1])
    assert repr(modalities) == "Modalities(['rgb', 'depth', 'thermal'])"


@pytest.mark.parametrize(
    "names", [[], [""], ["a", "a"], ["a+b"], ["a/b"], ["a b"], pytest.param([3], marks=pytest.mark.wrong_types)]
)
def test_bad_names(names: list) -> None:
    with pytest.raises(LightningMMError, match=r"modalit"):
        Modalities(names)


def test_a_string_is_not_a_list_of_names() -> None:
    with pytest.raises(LightningMMError, match=r"got the string 'rgb'; write \[rgb\]"):
        Modalities("rgb")


@pytest.mark.parametrize(
    ("combination", "message"),
    [("rgb+lidar", "unknown modality 'lidar'"), ("rgb+rgb", "a modality twice"), ("", "unknown modality ''")],
)
def test_bad_combinations(combination: str, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        Modalities(NAMES).mask(combination)


def test_bad_selection_and_bad_flags() -> None:
    for selection in ("rgb", []):
        with pytest.raises(LightningMMError, match="combinations must be a non-empty list"):
            Modalities(NAMES).select(selection)
    with pytest.raises(LightningMMError, match="expected 3 flags"):
        Modalities(NAMES).name([True])


def test_a_draw_of_many_combinations_is_fixed_and_holds_the_plain_ones() -> None:
    many = Modalities([f"m{place}" for place in range(20)])
    drawn = many.sampled(1023)
    assert len(set(drawn)) == 1023
    assert drawn == many.sampled(1023) == many.select(drawn)
    assert drawn != many.sampled(1023, seed=1)
    plain = {*many, many.full, *("+".join(name for name in many if name != one) for one in many)}
    assert plain <= set(drawn)
    few = Modalities(["a", "b", "c"])
    assert few.sampled(7) == few.combinations()
    with pytest.raises(LightningMMError, match=r"20 modalities have 1,048,575 combinations, too many to list; choose"):
        many.combinations()


@pytest.mark.wrong_types
def test_what_is_no_mask_is_answered_with_what_to_write() -> None:
    good = torch.tensor([[True, False, True], [False, True, True]])
    assert check_mask("available", good, NAMES) is good
    check_rows("available", good)
    check_rows("available", good[:0])
    cases = {
        "got a list; make it a tensor: torch.as_tensor": good.tolist(),
        "got a ndarray; make it a tensor: torch.as_tensor": good.numpy(),
        r"got torch.int64 \(2, 3\); True means available: write mask.bool\(\)": good.long(),
        r"got torch.float32 \(2, 3\); True means available: write mask.bool\(\)": good.float(),
        r"got torch.bool \(3,\); give every sample its row: mask.expand\(batch_size, -1\)": good[0],
        r"got torch.bool \(2, 2\); give one column for each of these, in this order": good[:, :2],
        r"got torch.bool \(\); give one column": good[0, 0],
    }
    for message, mask in cases.items():
        with pytest.raises(
            LightningMMError, match=rf"available: expected Bool\[B, 3\], one column for each of \['rgb', .*, {message}"
        ):
            check_mask("available", mask, NAMES)
    with pytest.raises(
        LightningMMError, match=r"no modality is available in rows \[1\] of the batch; a combination has"
    ):
        check_rows("available", good & torch.tensor([[True], [False]]))
