"""The public check finds leaks of every kind, and passes networks that have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Learned, Zeros
from lightning_mm.testing import assert_missing_invariant

NAMES = ["a", "b"]


def inputs(batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, 4, generator=generator) for name in NAMES}


class Sum(nn.Module):
    """A linear layer per modality, summed; ``how`` says how absence is handled."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.parts = nn.ModuleDict({name: nn.Linear(4, 2) for name in NAMES})
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, inputs: dict[str, Tensor], available: Tensor | None = None) -> Tensor:
        total = torch.zeros(())
        for position, (name, part) in enumerate(self.parts.items()):
            value = inputs[name]
            flag = torch.ones(len(value), 1).bool() if available is None else available[:, position, None]
            if self.how in ("where", "random"):
                value = torch.where(flag, value, 0.0)
            if self.how == "batch_norm":  # statistics of the batch see what is absent
                value = self.norm(value)
            if self.how == "random":
                value = self.drop(value)
            out = part(value)
            if self.how == "product":
                out = out * flag
            elif self.how != "open":
                out = torch.where(flag, out, 0.0)
            total = total + out
        return total


@pytest.mark.parametrize("how", ["where", "random"])
def test_closed_networks_pass_and_are_left_as_they_were(how: str) -> None:
    network = Sum(how).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    assert_missing_invariant(network, NAMES, inputs())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("open", r"combination 'a', nan in absent entries: output changed in 100.0% of its values"),
        ("product", r"combination 'a', nan in absent entries: output changed"),
        ("output_only", r"combination 'a', nan in absent entries: gradient of parts.b.weight changed"),
    ],
)
def test_leaks_are_found_and_named(how: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_missing_invariant(Sum(how), NAMES, inputs())


def test_a_leak_into_buffers_is_put_back_and_found_in_the_mixed_batch() -> None:
    network = Sum("batch_norm").train()
    with pytest.raises(AssertionError, match=r"combination 'mixed batch', 1000000000.0 in absent entries: output"):
        assert_missing_invariant(network, NAMES, inputs(), combinations=["a", "a+b"], poisons=[1e9])
    assert network.norm.running_mean is not None
    assert (network.norm.running_mean == 0).all()


def test_a_finite_poison_finds_what_nan_cannot() -> None:
    def peeks(values: dict[str, Tensor], available: Tensor) -> Tensor:
        return (values["b"] > 100).any(1) + torch.where(available[:, 0], values["a"].sum(1), 0.0)

    assert_missing_invariant(peeks, NAMES, inputs(), combinations=["a"], poisons=[float("nan")])
    with pytest.raises(AssertionError, match=r"1000000000.0 in absent entries"):
        assert_missing_invariant(peeks, NAMES, inputs(), combinations=["a"])


def test_gradients_can_be_left_out() -> None:
    assert_missing_invariant(Sum("output_only"), NAMES, inputs(), check_gradients=False)


def test_a_fill_protects_a_network_that_knows_no_mask() -> None:
    assert_missing_invariant(Sum("open"), NAMES, inputs(), fill=Zeros(), available_argument=None)
    assert_missing_invariant(Sum("open"), NAMES, inputs(), fill=Learned({"a": 4}), available_argument=None)
    with pytest.raises(AssertionError, match="output changed"):
        assert_missing_invariant(Sum("open"), NAMES, inputs(), available_argument=None)


@dataclass
class Output:
    logits: Tensor
    parts: dict[str, list[Tensor]]


def test_nests_ids_flags_and_other_outputs() -> None:
    table = nn.Embedding(10, 2)
    values = {
        "a": {"ids": torch.tensor([[1, 2], [3, 4]]), "mask": torch.tensor([[True, False], [True, True]])},
        "b": (torch.ones(2, 3), [torch.full((2,), 7)]),
    }

    def network(values: dict[str, Any], available: Tensor, leak: str = "") -> Output:
        there_a, there_b = available[:, 0], available[:, 1]
        ids = torch.where(there_a[:, None], values["a"]["ids"], 0)
        mask = values["a"]["mask"] if leak == "mask" else values["a"]["mask"] & there_a[:, None]
        number = values["b"][1][0] if leak == "id" else torch.where(there_b, values["b"][1][0], 0)
        dense = torch.where(there_b[:, None], values["b"][0], 0.0)
        return Output((table(ids) * mask[..., None]).sum(1), {"b": [dense, number]})

    assert_missing_invariant(network, NAMES, values)
    with pytest.raises(AssertionError, match=r"combination 'b', nan .*: output.logits changed"):
        assert_missing_invariant(lambda *a, **k: network(*a, **k, leak="mask"), NAMES, values)
    with pytest.raises(AssertionError, match=r"combination 'a', nan .*: output.parts\['b'\]\[1\] changed .* 7 -> 6"):
        assert_missing_invariant(lambda *a, **k: network(*a, **k, leak="id"), NAMES, values)


def test_texts_and_arrays_are_poisoned_too() -> None:
    values = {"a": {"caption": ["one", "three", "seventeen"]}, "b": np.arange(6.0).reshape(3, 2)}

    def network(values: dict[str, Any], available: Tensor, leak: str = "") -> Tensor:
        words = torch.tensor([float(len(word)) for word in values["a"]["caption"]])
        numbers = torch.as_tensor(values["b"]).sum(1)
        words = words if leak == "text" else torch.where(available[:, 0], words, 0.0)
        return words + (numbers if leak == "array" else torch.where(available[:, 1], numbers, 0.0))

    assert_missing_invariant(network, NAMES, values)
    for leak, combination in {"text": "b", "array": "a"}.items():
        with pytest.raises(AssertionError, match=f"combination '{combination}', nan .*: output changed"):
            assert_missing_invariant(lambda *a, leak=leak, **k: network(*a, leak=leak, **k), NAMES, values)
    with pytest.raises(LightningMMError, match="hold nothing with one row per sample; expected tensors, got"):
        assert_missing_invariant(network, NAMES, {"a": "one", "b": 2})


def test_shapes_that_depend_on_what_is_absent_are_named() -> None:
    def network(values: dict[str, Tensor], available: Tensor) -> Tensor:
        return values["a"][:, : 2 if values["b"].isnan().any() else 3] * 1.0

    with pytest.raises(AssertionError, match=r"output changed shape \(3, 3\) -> \(3, 2\)"):
        assert_missing_invariant(network, NAMES, inputs(), combinations=["a"])


def test_other_names_of_the_mask_and_mistakes() -> None:
    def network(values: dict[str, Tensor], present: Tensor) -> Tensor:
        return torch.where(present[:, :1], values["a"], 0.0)

    assert_missing_invariant(network, NAMES, inputs(), available_argument="present")
    with pytest.raises(LightningMMError, match=r"one entry for each of \['a', 'b'\], got \['a'\]"):
        assert_missing_invariant(network, NAMES, {"a": torch.ones(1)})
    with pytest.raises(LightningMMError, match="unknown modality 'c'"):
        assert_missing_invariant(network, NAMES, inputs(), combinations=["c"])
    with pytest.raises(LightningMMError, match="returned no tensor but str"):
        assert_missing_invariant(lambda values, available: "words", NAMES, inputs())
