"""Fills: absent rows get the documented value, present rows stay bit-identical, what was absent reaches nothing."""

import math
from collections import UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_mm.adapters.saving.settings import from_settings, settings_of
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import (
    Constant,
    EmptyText,
    Fill,
    Learned,
    Mean,
    Noise,
    PerModality,
    Tokens,
    Zeros,
    fill_inputs,
)

PRESENT = torch.tensor([True, False, True])
IMAGE = torch.arange(3 * 2 * 2 * 2, dtype=torch.float32).view(3, 2, 2, 2)


def _fills() -> list[Fill]:
    return [
        Zeros(),
        Constant({"image": 1.0}),
        Mean({"image": [0.5, -0.5]}),
        Noise(std=2.0, seed=3),
        Learned({"image": 2}),
        Tokens({"text": [101, 102]}),
        PerModality({"image": Constant({"image": 1.0}), "text": EmptyText()}),
    ]


@pytest.mark.parametrize("fill", _fills(), ids=lambda fill: type(fill).__name__)
@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e9])
def test_absent_values_reach_neither_output_nor_gradient(fill: Fill, poison: float) -> None:
    clean = IMAGE.clone().requires_grad_()
    poisoned = IMAGE.clone()
    poisoned[1] = poison
    poisoned.requires_grad_()
    outputs = [fill("image", value, PRESENT) for value in (clean, poisoned)]
    assert torch.equal(outputs[0], outputs[1])
    assert outputs[0].isfinite().all()
    assert torch.equal(outputs[0][PRESENT], IMAGE[PRESENT])
    for value, output in zip((clean, poisoned), outputs):
        output.square().sum().backward()
        assert value.grad is not None
        assert value.grad[1].eq(0).all()
    assert torch.equal(poisoned.grad, clean.grad)  # type: ignore[arg-type]
    assert poisoned[1].isnan().all() or poisoned[1].eq(poison).all()  # nothing was written in place


def test_documented_values() -> None:
    assert Zeros()("image", IMAGE, PRESENT)[1].eq(0).all()
    assert Constant({"image": 1.0})("image", IMAGE, PRESENT)[1].eq(1).all()
    assert Constant({"image": 1.0})("other", IMAGE, PRESENT)[1].eq(0).all()
    mean = Mean({"image": [0.5, -0.5]})("image", IMAGE, PRESENT)[1]
    assert mean[0].eq(0.5).all()
    assert mean[1].eq(-0.5).all()
    assert Mean({"image": 2})("image", IMAGE, PRESENT)[1].eq(2).all()
    sequence = Mean({"audio": [1.0, 2.0, 3.0]}, channel_axis=-1)("audio", torch.zeros(3, 4, 3), PRESENT)
    assert torch.equal(sequence[1], torch.tensor([1.0, 2.0, 3.0]).expand(4, 3))


def test_noise_is_one_fixed_row_whatever_the_batch() -> None:
    fill = Noise(std=2.0, seed=3)
    absent = torch.tensor([False, False, False])
    filled = fill("image", torch.zeros(3, 4, 32, 32), absent)
    assert torch.equal(filled[0], filled[2])
    assert torch.equal(filled[:1], fill("image", torch.ones(1, 4, 32, 32), absent[:1]))
    assert 1.9 < filled[0].std() < 2.1
    ids = fill("text", torch.tensor([[5, 6]]), torch.tensor([False]))
    assert ids.tolist() == [[0, 0]]
    assert ids.dtype == torch.int64


def test_learned_rows_get_gradient_from_absent_places_only() -> None:
    fill = Learned({"image": 2})
    fill("image", IMAGE, PRESENT).sum().backward()
    assert fill.rows["image"].grad is not None
    assert fill.rows["image"].grad.tolist() == [4.0, 4.0]
    assert list(fill.state_dict()) == ["rows.image"]


def test_tokens_fill_ids_and_attention_mask_of_a_nested_input() -> None:
    text = {"ids": torch.full((3, 4), 7), "mask": torch.ones(3, 4, dtype=torch.int64)}
    filled = Tokens({"text": [101, 102]}, pad=9, path="ids")("text", text, PRESENT)
    assert filled["ids"].tolist() == [[7] * 4, [101, 102, 9, 9], [7] * 4]
    assert filled["mask"].tolist() == [[1] * 4, [1, 1, 0, 0], [1] * 4]
    plain = Tokens({"text": [101, 102]})("text", torch.full((3, 1), 7), PRESENT)
    assert plain.tolist() == [[7], [101], [7]]  # cut where the batch is shorter


def test_the_empty_text_is_tokenised_and_masked() -> None:
    ones = torch.ones(3, 4, dtype=torch.int64)
    text = {"input_ids": 7 * ones, "attention_mask": ones.bool(), "token_type_ids": ones, "length": 4 * ones[:, 0]}
    filled = EmptyText(pad=9)("text", text, PRESENT)
    assert filled["input_ids"].tolist() == [[7] * 4, [101, 102, 9, 9], [7] * 4]
    assert filled["attention_mask"].tolist() == [[True] * 4, [True, True, False, False], [True] * 4]
    assert filled["token_type_ids"].tolist() == [[1] * 4, [0] * 4, [1] * 4]
    assert filled["length"].tolist() == [4, 1, 4]
    short = EmptyText(cls=2, sep=3)("text", {"input_ids": 7 * ones[:, :1]}, PRESENT)
    assert short["input_ids"].tolist() == [[7], [2], [7]]


def test_each_modality_its_own_fill() -> None:
    fill = PerModality({"image": Constant({"image": 1.0}), "audio": Learned({"audio": 2}), "text": EmptyText()})
    pixels = {"pixel_values": IMAGE, "pixel_mask": torch.zeros(3, 2, 2, dtype=torch.int64)}
    filled = fill("image", pixels, PRESENT)
    assert filled["pixel_values"][1].eq(1).all()
    assert filled["pixel_mask"].sum((1, 2)).tolist() == [0, 4, 0]
    assert fill("text", {"input_ids": torch.full((3, 2), 7)}, PRESENT)["input_ids"][1].tolist() == [101, 102]
    assert fill("other", IMAGE, PRESENT)[1].eq(0).all()
    fill("audio", IMAGE, PRESENT).sum().backward()
    assert [parameter.grad is not None for parameter in fill.parameters()] == [True]


def test_fills_of_fills_are_saved_in_plain_settings() -> None:
    fill = PerModality({"image": Constant({"image": 1.0}), "text": EmptyText(cls=2)})
    again = from_settings(settings_of(fill), Fill)
    assert settings_of(again) == settings_of(fill)
    assert isinstance(again, PerModality)
    assert isinstance(again.fills["text"], EmptyText)
    assert again.fills["text"].cls == 2
    harmful = {
        "class_path": "lightning_mm.missing.PerModality",
        "init_args": {"fills": {"a": {"class_path": "os.system"}}},
    }
    harmful["init_args"]["fills"]["a"]["init_args"] = {}  # type: ignore[index]
    with pytest.raises(LightningMMError, match=r"expected a Fill in the saved adapter, got 'os\.system'"):
        from_settings(harmful, Fill)


def test_nests_keep_their_types_and_leave_other_values_alone() -> None:
    nest = {"a": [IMAGE, (IMAGE, "label")], "b": None}
    filled = Zeros()("image", nest, PRESENT)
    assert isinstance(filled["a"], list)
    assert isinstance(filled["a"][1], tuple)
    assert filled["a"][1][1] == "label"
    assert filled["b"] is None
    for leaf in (filled["a"][0], filled["a"][1][0]):
        assert leaf[1].eq(0).all()
        assert torch.equal(leaf[0], IMAGE[0])


def test_fill_inputs_uses_the_column_of_each_modality() -> None:
    available = torch.tensor([[True, False], [False, True], [True, True]])
    inputs = {"a": torch.ones(3, 2), "b": torch.ones(3, 4), "extra": torch.ones(3)}
    filled = fill_inputs(Zeros(), ["a", "b"], inputs, available)
    assert filled["a"][:, 0].tolist() == [1, 0, 1]
    assert filled["b"][:, 0].tolist() == [0, 1, 1]
    assert filled["extra"] is inputs["extra"]
    assert inputs["a"].eq(1).all()


def test_fills_keep_the_dtype_of_the_input() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.int32, torch.bool):
        value: Tensor = torch.ones(3, 2).to(dtype)
        for fill in _fills()[:2] + _fills()[3:5]:
            assert fill("image", value, PRESENT).dtype == dtype


def test_errors() -> None:
    with pytest.raises(LightningMMError, match=r"modality 'image': expected 3 samples first, got shape \(2, 2\)"):
        Zeros()("image", torch.ones(2, 2), PRESENT)
    with pytest.raises(LightningMMError, match="expected 1 or 2 channel means, got 3"):
        Mean({"image": [1.0, 2.0, 3.0]})("image", IMAGE, PRESENT)


class Clip(NamedTuple):
    frames: Any
    title: Any


def test_containers_keep_their_types_and_what_is_shared_stays() -> None:
    nest = {
        "user": UserDict(x=IMAGE),
        "clips": [Clip(IMAGE, Clip((4, 4), None))],
        "labels": ["cat", "dog"],
        "empty": [],
    }
    filled = Zeros()("image", nest, PRESENT)

    assert isinstance(filled["user"], UserDict)
    assert isinstance(filled["clips"][0].title, Clip)
    for tensor in (filled["user"]["x"], filled["clips"][0].frames):
        assert tensor[1].eq(0).all()
        assert torch.equal(tensor[PRESENT], IMAGE[PRESENT])
    assert filled["clips"][0].title == ((4, 4), None)
    assert (filled["labels"], filled["empty"]) == (["cat", "dog"], [])


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (["a", "b", "c"], "holds texts, which no fill can replace; tokenise them before they are batched"),
        (("a", "b", "c"), "holds texts"),
        (["a", None, "c"], "holds texts"),
        ([1, 2, 3], "holds values that are no tensors, which no fill can replace; make tensors of them before"),
        (np.ones((3, 2)), "holds values that are no tensors"),
    ],
)
def test_rows_that_no_fill_can_replace_are_refused_if_some_are_absent(leaf: Any, message: str) -> None:
    nest = {"x": IMAGE, "other": [leaf]}
    assert Zeros()("image", nest, torch.ones(3, dtype=torch.bool))["other"] == [leaf]
    with pytest.raises(LightningMMError, match=f"modality 'image' {message}"):
        Zeros()("image", nest, PRESENT)


def test_a_mask_of_another_device_and_a_sparse_input() -> None:
    """The meta device stands for any other."""
    filled = Zeros()("rgb", torch.ones(2, 3, device="meta"), torch.tensor([True, False]))
    assert filled.device.type == "meta"
    with pytest.raises(LightningMMError, match=r"modality 'rgb': no fill replaces a torch.sparse_coo tensor; write"):
        Zeros()("rgb", torch.eye(2).to_sparse(), torch.tensor([True, False]))
