"""Absent places and padding reach nothing through the steps of classification and sentiment, adapted or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_mm.adapters import Additive, Basis, OneHot
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.modalities import Modalities
from lightning_mm.tasks import BaseTask
from tests.support.adapter_networks import randomise
from tests.support.new_tasks import KINDS, NAMES, PARTS, attach, batch_of, masks_of, row_of, spoiled, task, trainer

BASES = [None, OneHot, Additive]
IDS = ["base", "onehot", "additive"]


def made(
    kind: str, mask_absent: bool, basis: type[Basis] | None, **settings: Any
) -> tuple[BaseTask, FrozenBackboneAdapter | None]:
    """A task in training, adapted where a basis is given, that logs nowhere."""
    one = task(kind, mask_absent, **settings)
    callback = None
    if basis is not None:
        callback = attach(one, basis())
        randomise(one.adapter, scale=0.1)
    one.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return one, callback


def step(one: BaseTask, callback: FrozenBackboneAdapter | None, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Loss, outputs, gradients and running statistics of a training step; the task is left as it was."""
    buffers = {name: buffer.clone() for name, buffer in one.named_buffers()}
    one.train()
    if callback is not None:
        callback.on_train_batch_start(trainer(Path(), []), one, batch, 0)
    torch.manual_seed(3)
    one.zero_grad()
    loss = one.training_step(batch, 0)
    loss.backward()
    found = {"loss": loss.detach()}
    found |= {f"gradient of {name}": p.grad.clone() for name, p in one.named_parameters() if p.grad is not None}
    found |= {f"buffer {name}": buffer.clone() for name, buffer in one.named_buffers()}
    for name, buffer in one.named_buffers():
        buffer.copy_(buffers[name])
    one.eval()
    with torch.no_grad():
        found["outputs"] = one(batch["inputs"], batch["available"])
    assert all(value.isfinite().all() for value in found.values())
    return found


@pytest.mark.parametrize("basis", BASES, ids=IDS)
@pytest.mark.parametrize(("kind", "mask_absent"), KINDS)
def test_poison_changes_no_bit(kind: str, mask_absent: bool, basis: type[Basis] | None) -> None:
    one, callback = made(kind, mask_absent, basis)
    batch = batch_of(kind)
    lengths = [value["length"] for value in batch["inputs"].values() if isinstance(value, dict)]
    assert lengths
    assert all(len(length.unique()) > 1 for length in lengths), "there is padding"
    for combination, mask in masks_of(kind, len(batch["target"])).items():
        expected = step(one, callback, {**batch, "available": mask})
        for poison in (math.nan, 1e9):
            inputs = {name: spoiled(batch["inputs"][name], mask[:, k], poison) for k, name in enumerate(NAMES[kind])}
            found = step(one, callback, {**batch, "inputs": inputs, "available": mask})
            assert list(found) == list(expected)
            wrong = [name for name, value in expected.items() if not torch.equal(value, found[name])]
            assert wrong == [], (combination, poison)
        trained = [name for name in expected if name.startswith("gradient")]
        assert trained
        assert basis is None or all("adapter." in name for name in trained)


@pytest.mark.parametrize(
    ("kind", "auxiliary_weight"), [("classification", 0.0), ("classification", 0.5), ("sentiment", 0.0)]
)
def test_what_is_absent_everywhere_gets_zero_gradient(kind: str, auxiliary_weight: float) -> None:
    one, _ = made(kind, True, None, auxiliary_weight=auxiliary_weight)
    names = Modalities(NAMES[kind])
    batch = batch_of(kind)
    for combination in names.combinations():
        mask = names.mask(combination).expand(len(batch["target"]), -1).clone()
        found = step(one, None, {**batch, "available": mask})
        for name in names:
            prefixes = tuple(f"gradient of model.{part}" for part in PARTS[kind].format(name).split("|"))
            own = [value for key, value in found.items() if key.startswith(prefixes)]
            assert own
            assert any(bool(value.any()) for value in own) == (name in names.parse(combination)), (combination, name)


@pytest.mark.parametrize("basis", BASES, ids=IDS)
@pytest.mark.parametrize(("kind", "mask_absent"), KINDS)
def test_a_mixed_batch_equals_one_row_at_a_time(kind: str, mask_absent: bool, basis: type[Basis] | None) -> None:
    one, _ = made(kind, mask_absent, basis)
    one.eval()
    batch = batch_of(kind)
    batch["available"] = masks_of(kind, len(batch["target"]))["mixed"]
    with torch.no_grad():
        together = one(batch["inputs"], batch["available"])
        for row in range(len(together)):
            single = row_of(batch, row)
            alone = one(single["inputs"], single["available"])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("basis", BASES[1:], ids=IDS[1:])
@pytest.mark.parametrize(("kind", "mask_absent"), KINDS)
def test_the_full_combination_is_the_base_and_the_start_is_zero_fill(
    kind: str, mask_absent: bool, basis: type[Basis]
) -> None:
    one, batch = task(kind, mask_absent).eval(), batch_of(kind)
    masks = masks_of(kind, len(batch["target"]))
    full = "+".join(NAMES[kind])
    with torch.no_grad():
        before = {name: one(batch["inputs"], mask) for name, mask in masks.items()}
        attach(one, basis())
        for name, mask in masks.items():
            with one.adapter.every_row():
                assert torch.equal(one(batch["inputs"], mask), before[name]), name
            # rows that encoders need not see again differ in their last bits, as in any other batch
            torch.testing.assert_close(one(batch["inputs"], mask), before[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(one(batch["inputs"], masks[full]), before[full])
        randomise(one.adapter, scale=0.1)
        moved = [name for name, mask in masks.items() if not torch.equal(one(batch["inputs"], mask), before[name])]
    assert moved == [name for name in masks if name != full]
