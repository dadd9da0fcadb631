"""Collate: what was not observed becomes a placeholder, sequences are padded, policies only take away."""

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from lightning_mm.data import Collate
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import FixedCombination, IndependentMissing, UniformCombinations
from lightning_mm.modalities import Modalities

AB = Modalities(["a", "b"])


def _sample(a: Any, b: Any, target: Any = 0, **more: Any) -> dict[str, Any]:
    return {"inputs": {"a": a, "b": b}, "target": target, **more}


def test_batch_of_complete_samples() -> None:
    batch = Collate(AB)([_sample(torch.full((2,), i), i / 2, target=i, index=7 - i) for i in range(3)])
    assert batch.keys() == {"inputs", "available", "observed", "target", "index"}
    assert batch["inputs"]["a"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert batch["inputs"]["b"].tolist() == [0, 0.5, 1]
    assert batch["target"].tolist() == [0, 1, 2]
    assert batch["index"].tolist() == [7, 6, 5]
    for mask in (batch["observed"], batch["available"]):
        assert mask.dtype == torch.bool
        assert mask.all()
        assert mask.shape == (3, 2)


def test_none_and_absent_keys_become_zeros_of_the_right_shape() -> None:
    absent = {"inputs": {"b": torch.ones(3)}, "target": 1}
    batch = Collate(AB)([absent, _sample(torch.ones(2, 2), None), _sample(torch.ones(2, 2), torch.ones(3))])
    assert batch["observed"].tolist() == [[False, True], [True, False], [True, True]]
    assert torch.equal(batch["available"], batch["observed"])
    assert batch["inputs"]["a"].shape == (3, 2, 2)
    assert batch["inputs"]["a"][0].eq(0).all()
    assert batch["inputs"]["b"].sum(1).tolist() == [3, 0, 3]


def test_a_modality_that_no_sample_of_the_batch_has_takes_its_shape_from_the_template() -> None:
    def template(name: str, sample: Mapping[str, Any]) -> torch.Tensor:
        assert name == "b"
        return torch.full((2 * len(sample["inputs"]["a"]),), 9.0)

    collate = Collate(AB, template=template)
    for length in (2, 3):
        batch = collate([_sample(torch.ones(length), None)] * 2)
        assert batch["inputs"]["b"].tolist() == [[0.0] * 2 * length] * 2
    with pytest.raises(
        LightningMMError, match="modality 'b': absent from the batch, and Collate was given no template"
    ):
        Collate(AB)([_sample(torch.ones(2), None)])


def test_nested_inputs() -> None:
    Pair = namedtuple("Pair", "left right")

    def nest(i: int) -> dict[str, Any]:
        return {"x": [torch.full((2,), i), {"y": np.float32(i)}], "p": Pair(i, "word"), "z": np.arange(3) + i}

    batch = Collate(AB)([_sample(nest(1), None), _sample(None, 5), _sample(nest(2), 6)])
    a = batch["inputs"]["a"]
    assert a["x"][0].tolist() == [[1, 1], [0, 0], [2, 2]]
    assert a["x"][1]["y"].tolist() == [1, 0, 2]
    assert isinstance(a["p"], Pair)
    assert a["p"].left.tolist() == [1, 0, 2]
    assert a["p"].right == ["word", "", "word"]
    assert a["z"].tolist() == [[1, 2, 3], [0, 0, 0], [2, 3, 4]]
    assert batch["inputs"]["b"].tolist() == [0, 5, 6]


def test_placeholders_have_the_containers_of_the_samples() -> None:
    """A mapping of another type than dict made a placeholder of another type than the samples."""
    tokens = UserDict(ids=torch.ones(2), length=2)
    batch = Collate(AB)([_sample(tokens, None), _sample(None, torch.ones(1)), _sample(tokens, torch.ones(1))])
    assert batch["inputs"]["a"]["ids"].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert batch["inputs"]["a"]["length"].tolist() == [2, 2, 2]


def test_inputs_of_float64_become_float32_and_nothing_else_changes() -> None:
    """NumPy makes float64 of everything, and no layer takes it; integers may be ids, and targets are the loss's."""
    a = {"values": np.full((2, 3), 0.1), "length": 2, "ids": torch.arange(2), "pair": [np.float64(0.1), "word"]}
    full, half = torch.full((2,), 0.1, dtype=torch.float64), torch.ones(2, dtype=torch.float16)
    batch = Collate(AB)([_sample(a, full, target=full), _sample(None, full, target=full)])
    inputs = batch["inputs"]
    for leaf in (inputs["a"]["values"], inputs["a"]["pair"][0], inputs["b"]):
        assert leaf.dtype == torch.float32
        assert torch.equal(leaf[0], torch.full_like(leaf[0], 0.1))
    assert inputs["a"]["pair"][1] == ["word", ""]
    assert inputs["a"]["ids"].dtype == inputs["a"]["length"].dtype == torch.int64
    assert batch["target"].dtype == torch.float64
    assert Collate(AB)([_sample(half, 0.5)])["inputs"]["a"].dtype == torch.float16


def test_sequences_with_a_length_are_padded_at_the_end() -> None:
    def words(steps: int) -> dict[str, Any]:
        return {"values": torch.ones(steps, 2), "times": torch.arange(steps), "length": steps, "speaker": torch.ones(3)}

    batch = Collate(AB)([_sample(words(2), 0), _sample(words(4), 0), _sample(None, 0), _sample(words(3), 0)])
    a = batch["inputs"]["a"]
    assert a["values"].shape == (4, 4, 2)
    assert a["values"].sum((1, 2)).tolist() == [4, 8, 0, 6]
    assert a["times"][3].tolist() == [0, 1, 2, 0]
    assert a["speaker"].shape == (4, 3)  # as long as one of the sequences, yet no sequence
    assert a["length"].tolist() == [2, 4, 2, 3]
    assert a["length"].dtype == torch.int64
    assert batch["observed"][:, 0].tolist() == [True, True, False, True]


def test_images_with_a_mask_are_padded_at_the_bottom_and_on_the_right() -> None:
    def image(height: int, width: int) -> dict[str, Any]:
        return {
            "pixel_values": torch.ones(3, height, width),
            "pixel_mask": torch.ones(height, width, dtype=torch.int64),
            "mean": np.ones(3),
        }

    batch = Collate(AB)([_sample(image(2, 4), 0), _sample(image(3, 2), 0), _sample(None, 0)])
    a = batch["inputs"]["a"]
    assert a["pixel_values"].shape == (3, 3, 3, 4)
    assert a["pixel_values"].sum((1, 2, 3)).tolist() == [24, 18, 0]
    assert a["pixel_values"][0, 0, 2].eq(0).all()
    assert a["pixel_values"][1, 0, :, 2:].eq(0).all()
    assert a["pixel_mask"].dtype == torch.int64
    assert torch.equal(a["pixel_mask"], a["pixel_values"][:, 0].long())
    assert a["mean"].shape == (3, 3)
    assert batch["observed"][:, 0].tolist() == [True, True, False]


def test_policies_take_away_from_what_was_observed_and_never_all() -> None:
    full = _sample(torch.ones(1), torch.ones(1))
    only_b = _sample(None, torch.ones(1))
    samples = [{**(full if i % 2 else only_b), "index": i, "epoch": 2} for i in range(40)]
    policy = IndependentMissing(0.5)
    batch = Collate(AB, policy, seed=3)(samples)
    drawn = policy.draw(AB, range(40), epoch=2, seed=3)
    expected = batch["observed"] & drawn
    expected[~expected.any(1)] = batch["observed"][~expected.any(1)]
    assert torch.equal(batch["available"], expected)
    assert batch["available"].any(1).all()
    assert (batch["observed"] | ~batch["available"]).all()
    assert batch["available"][::2].tolist() == [[False, True]] * 20
    assert batch["inputs"]["a"][1::2].eq(1).all()  # dropping is a mask, inputs stay


def test_a_row_whose_draw_and_observation_share_nothing_keeps_what_it_has() -> None:
    batch = Collate(AB, FixedCombination("a"))([_sample(None, 1.0, index=0), _sample(1.0, 1.0, index=1)])
    assert batch["available"].tolist() == [[False, True], [True, False]]


def test_policy_without_index_is_an_error() -> None:
    with pytest.raises(LightningMMError, match="draws by the index of a sample, but samples carry none"):
        Collate(AB, UniformCombinations())([_sample(1.0, 1.0)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([torch.ones(2), torch.ones(3)], r"modality 'a': samples have different shapes, \(2,\) and \(3,\); bring them"),
        ([{"x": 1}, {"y": 1}], "modality 'a': samples have different keys"),
        ([torch.ones(1), "word"], r"modality 'a': samples have different types \['Tensor', 'str'\]"),
        ([[1, 2], [1]], "modality 'a': lists of different lengths"),
        (
            [torch.eye(2).to_sparse()] * 2,
            r"modality 'a': cannot batch a torch.sparse_coo tensor; write tensor.to_dense",
        ),
        ([object(), object()], "modality 'a': cannot batch object"),
        ([{"values": torch.ones(3), "length": 2}] * 2, "modality 'a': 'length' is 2, but no tensor next to it"),
    ],
)
def test_samples_that_do_not_fit_together(values: list, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        Collate(AB)([_sample(value, 0) for value in values])


def test_targets_of_different_shapes() -> None:
    with pytest.raises(LightningMMError, match="target: samples have different shapes"):
        Collate(AB)([_sample(0, 0, target=torch.ones(2)), _sample(0, 0, target=torch.ones(3))])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, torch.uint8, torch.int32])
def test_integers_of_a_target_become_int64(kind: Any) -> None:
    """A PNG mask is uint8, and losses take int64; integers of inputs stay."""
    mask = torch.tensor([[0, 1], [255, 2]])
    mask = mask.to(kind) if isinstance(kind, torch.dtype) else mask.numpy().astype(kind)
    one = mask[1, 1] if isinstance(mask, np.ndarray) else mask[1, 1].item()
    batch = Collate(AB)([_sample(0.5, mask, target={"mask": mask, "class": one})] * 2)
    assert batch["target"]["mask"].dtype == batch["target"]["class"].dtype == torch.int64
    assert batch["target"]["mask"].tolist() == [[[0, 1], [255, 2]]] * 2
    assert batch["inputs"]["b"].dtype == torch.as_tensor(mask).dtype
    assert Collate(AB)([_sample(0, 0, target=np.bool_(True))])["target"].dtype == torch.bool


def test_arrays_that_torch_does_not_take_as_they_are() -> None:
    array = np.arange(6.0, dtype=">f4").reshape(2, 3)[::-1]
    batch = Collate(AB)([_sample(array, 0)] * 2)
    assert batch["inputs"]["a"].tolist() == [[[3, 4, 5], [0, 1, 2]]] * 2
    for texts in (np.array(["x", "y"]), np.array([None])):
        with pytest.raises(LightningMMError, match=r"modality 'a': cannot batch an array of .*; expected numbers"):
            Collate(AB)([_sample(texts, 0)])


def test_containers_of_samples_keep_their_type() -> None:
    for made in (UserDict, dict, OrderedDict):
        batch = Collate(AB)([_sample(made(ids=torch.ones(2), caption="x"), 0)] * 3)
        assert type(batch["inputs"]["a"]) is made
        assert batch["inputs"]["a"]["caption"] == ["x"] * 3


def test_samples_without_any_modality_or_of_another_form_are_named() -> None:
    with pytest.raises(LightningMMError, match=r"sample 7 has none of the modalities \['a', 'b'\]; leave such samples"):
        Collate(AB)([_sample(1.0, 1.0, index=6), _sample(None, None, index=7)])
    for wrong, came in (
        ({"inputs": [1, 2], "target": 0}, r"\['inputs', 'target'\]"),
        ({"inputs": {}}, r"\['inputs'\]"),
    ):
        with pytest.raises(LightningMMError, match=f"Collate: expected samples .*, got {came} at 0"):
            Collate(AB)([wrong])


@pytest.mark.parametrize("key", ["observed", "available"])
def test_a_mask_of_a_sample_is_not_ignored(key: str) -> None:
    """A placeholder next to a mask would count as observed."""
    masks = [torch.tensor([True, False]), np.array([True, False]), [True, False]]
    for mask in masks:
        with pytest.raises(
            LightningMMError, match=rf"sample 3 has '{key}' \[True, False\], which is not read; give None"
        ):
            Collate(AB)([_sample(0.0, 0.0, index=3, **{key: mask})])
    assert Collate(AB)([_sample(0.0, 0.0, **{key: [True, True]})])["observed"].all()
