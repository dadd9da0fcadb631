"""Damaged modalities in the data module: by (seed, index, epoch, modality) alone, and absent ones stay absent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_mm.adapters import SSF, adapt
from lightning_mm.data import DroppedFrames, GaussianNoise, MissingPixels, ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.testing import assert_missing_invariant


class Table(Dataset[dict[str, Any]]):
    """Ten samples; ``b``, a sequence, is observed for every third only."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        steps = index % 4 + 2
        b = {"values": torch.full((steps, 2), float(index)), "length": steps} if index % 3 == 0 else None
        return {"inputs": {"a": torch.full((3, 4, 4), float(index)), "b": b}, "target": index % 2}


def module(modalities: tuple[str, ...] = ("a", "b"), **settings: Any) -> ModalityDropoutDataModule:
    data = ModalityDropoutDataModule(Table, list(modalities), **{"batch_size": 5, **settings})
    for stage in ("fit", "test"):
        data.setup(stage)
    return data


def inputs_of(loader: Any, name: str = "a", epoch: int = 0) -> dict[int, Tensor]:
    loader.sampler.set_epoch(epoch)
    found: dict[int, Tensor] = {}
    for batch in loader:
        value = batch["inputs"][name]
        found.update(zip(batch["index"].tolist(), value if isinstance(value, Tensor) else value["values"]))
    return found


def same(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return all(torch.equal(one[index], other[index]) for index in one)


NOISE = {"train": {"a": GaussianNoise(3)}, "test": {"a": GaussianNoise(3)}}


def test_severity_zero_is_bit_identical_to_clean() -> None:
    clean, zero = module(), module(corrupt={"test": {"a": GaussianNoise(0), "b": DroppedFrames(0)}})
    for name in ("a", "b"):
        assert same(inputs_of(clean.test_dataloader(), name), inputs_of(zero.test_dataloader(), name))


def test_damage_is_a_function_of_seed_index_epoch_and_modality() -> None:
    first = inputs_of(module(corrupt=NOISE).train_dataloader())
    others = {"batch_size": 3, "num_workers": 2}, {"modalities": ("b", "a")}
    torch.manual_seed(1)
    for settings in others:
        assert same(first, inputs_of(module(**settings, corrupt=NOISE).train_dataloader()))
    again = module(corrupt=NOISE)
    assert not same(first, inputs_of(again.train_dataloader(), epoch=1))
    assert not same(first, inputs_of(module(corrupt=NOISE, seed=1).train_dataloader()))
    assert same(inputs_of(again.test_dataloader()), inputs_of(again.test_dataloader(), epoch=1))
    assert not torch.equal(first[0] - 0, first[1] - 1)


def test_only_what_is_named_is_damaged() -> None:
    data, clean = module(corrupt={"test": {"b": MissingPixels(5)}}), module()
    assert same(inputs_of(clean.test_dataloader()), inputs_of(data.test_dataloader()))
    assert not same(inputs_of(clean.test_dataloader(), "b"), inputs_of(data.test_dataloader(), "b"))
    assert same(inputs_of(clean.train_dataloader(), "b"), inputs_of(data.train_dataloader(), "b"))
    assert same(inputs_of(clean.test_dataloader(), "b"), inputs_of(data.plain_dataloader("test"), "b"))


def test_absent_modalities_stay_absent_and_shorter_sequences_are_padded() -> None:
    data = module(corrupt={"test": {"b": DroppedFrames(5, [1.0] * 5)}}, eval_batch_size=10)
    (batch,) = data.test_dataloader()
    assert batch["observed"].tolist() == [[True, index % 3 == 0] for index in range(10)]
    assert batch["inputs"]["b"]["values"].shape == (10, 1, 2)
    assert batch["inputs"]["b"]["length"].tolist() == [1] * 10
    for loader in (module().test_dataloader(), data.plain_dataloader("test", corrupt={"a": GaussianNoise(2)})):
        assert torch.equal(torch.cat([each["observed"] for each in loader]), batch["observed"])


def test_damaged_batches_pass_the_poison_test() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(48, 3), nn.Linear(2, 3)

        def forward(self, a: Tensor, b: dict[str, Tensor]) -> Tensor:
            return self.a(a.flatten(1)) + self.b(b["values"].sum(1))

    (batch,) = module(
        corrupt={"test": {"a": GaussianNoise(5), "b": MissingPixels(3)}}, eval_batch_size=10
    ).test_dataloader()
    inputs = batch["inputs"]
    adapted = adapt(Sum(), ["a", "b"], SSF(), example=((), inputs))
    assert_missing_invariant(lambda inputs, available: adapted(**inputs, available=available), ["a", "b"], inputs)


def test_mistakes_are_explained() -> None:
    with pytest.raises(LightningMMError, match=r"data.corrupt must be one of \['train', 'val', 'test'\], got 'tset'"):
        module(corrupt={"tset": {"a": GaussianNoise()}})
    with pytest.raises(LightningMMError, match=r"corrupt: unknown modality 'c'; expected some of \['a', 'b'\]"):
        module(corrupt={"test": {"c": GaussianNoise()}})
