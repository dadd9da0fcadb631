"""Training of classification and sentiment: the base stays the same bits, resume is exact, and adapting pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_mm.adapters import SSF, Additive, Basis, OneHot
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import UniformCombinations
from lightning_mm.modalities import Modalities
from lightning_mm.sweep import sweep
from lightning_mm.tasks import BaseTask
from lightning_mm.tasks.checkpoints import load_network, load_weights, read_checkpoint
from tests.support.adapter_networks import randomise
from tests.support.new_tasks import KINDS, NAMES, attach, batch_of, changed, data, task, trainer

pytestmark = [
    # a run is resumed from the checkpoint of another one's folder on purpose
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]
TASKS = ["classification", "sentiment"]


def fit(folder: Path, one: BaseTask, kind: str, basis: Basis | None, ckpt_path: Path | None = None) -> None:
    """Two epochs with validation, a checkpoint after each."""
    callbacks: list[Any] = [KeyedSeed(3), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)]
    callbacks += [] if basis is None else [FrozenBackboneAdapter(SSF(), basis)]
    run = trainer(folder, callbacks)
    run.fit(one, data(kind, policy=UniformCombinations()), ckpt_path=ckpt_path)
    assert run.current_epoch == 2


@pytest.mark.parametrize("basis", [None, OneHot, Additive], ids=["base", "onehot", "additive"])
@pytest.mark.parametrize("kind", TASKS)
def test_frozen_base_and_exact_resume(tmp_path: Path, kind: str, basis: type[Basis] | None) -> None:
    whole, resumed, start, batch = task(kind), task(kind), task(kind), batch_of(kind)
    fit(tmp_path / "whole", whole, kind, basis and basis())
    torch.manual_seed(77)  # another process has another random state
    fit(tmp_path / "resumed", resumed, kind, basis and basis(), tmp_path / "whole" / "epoch=0.ckpt")
    assert changed(whole.state_dict(), resumed.state_dict()) == []

    moved = changed(start.model.state_dict(), whole.model.state_dict())
    if basis is None:
        assert moved
        return
    assert moved == [], "weights and running statistics of the base are the same bits"
    assert not any(module.training for module in resumed.model.modules())
    trained = {name for name, parameter in whole.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(name.startswith("adapter.") for name in trained)
    assert any(bool(whole.state_dict()[name].any()) for name in trained)
    full = torch.ones(len(batch["target"]), 3, dtype=torch.bool)
    with torch.no_grad():
        expected = start.eval()(batch["inputs"], full)
        assert torch.equal(whole.eval()(batch["inputs"], full), expected), "the full combination is untouched"
        one = torch.tensor([True, False, False]).expand_as(full)
        assert not torch.equal(whole(batch["inputs"], one), start(batch["inputs"], one)), "others are not"


@pytest.mark.parametrize("kind", TASKS)
def test_a_checkpoint_holds_the_adapter_alone_and_needs_its_callback(tmp_path: Path, kind: str) -> None:
    whole, batch = task(kind), batch_of(kind)
    fit(tmp_path, whole, kind, Additive())
    path = tmp_path / "epoch=1.ckpt"
    state = read_checkpoint(path)["state_dict"]
    assert state
    assert [key for key in state if not key.startswith("adapter.")] == []

    plain = task(kind)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    with pytest.raises(LightningMMError, match="holds an adapter and not its base; add the config with its Frozen"):
        load_weights(plain, path)
    with pytest.raises(LightningMMError, match="holds an adapter and not its base"):
        trainer(tmp_path, []).validate(plain, data(kind), ckpt_path=str(path), verbose=False)
    with pytest.raises(LightningMMError, match="is an adapter's checkpoint and does not hold the base"):
        load_network(plain.model, path)
    assert changed(before, plain.state_dict()) == [], "a refused checkpoint changes nothing"

    attach(plain, Additive())
    load_weights(plain, path)
    mask = Modalities(NAMES[kind]).masks()
    with torch.no_grad():
        assert torch.equal(plain.eval()(batch["inputs"], mask), whole.eval()(batch["inputs"], mask))

    other = task(kind)
    randomise(other.model)
    attach(other, Additive())
    with pytest.raises(LightningMMError, match=r"other weights|another base|differ"):
        load_weights(other, path)


@pytest.mark.parametrize(("kind", "mask_absent"), KINDS)
def test_sweep_gives_all_combinations_and_zero_fill_beside(tmp_path: Path, kind: str, mask_absent: bool) -> None:
    one = task(kind, mask_absent)
    attach(one, OneHot())
    randomise(one.adapter, scale=0.2)
    result = sweep(one, data(kind), trainer=trainer(tmp_path, []), bootstrap=0)
    combinations = Modalities(NAMES[kind]).combinations()
    assert result.methods == ["zero_fill", "adapted"]
    metric = {"classification": "accuracy", "sentiment": "mae"}[kind]
    assert result.primary_metric == metric
    found = {(row.method, row.combination): row for row in result.rows if row.metric == metric}
    assert set(found) == {(method, name) for method in ("zero_fill", "adapted") for name in combinations}
    assert {row.n for row in found.values()} == {12}
    # beside each other: the full combination is the base's own, and a network without adapter gives the same zero_fill
    assert found["adapted", combinations[-1]].value == found["zero_fill", combinations[-1]].value
    plain = sweep(task(kind, mask_absent), data(kind), trainer=trainer(tmp_path, []), bootstrap=0)
    expected = {row.combination: row.value for row in plain.rows if row.metric == metric}
    assert {name: found["zero_fill", name].value for name in combinations} == expected


def test_adapting_pays(tmp_path: Path) -> None:
    """A base that saw complete data only, then 8 epochs of SSF; chance is a third."""
    kind = "classification"
    one = task(kind, mask_absent=False)
    trainer(tmp_path, [KeyedSeed(0)], epochs=8, enable_checkpointing=False, limit_val_batches=0).fit(
        one, data(kind, length=96, batch_size=16)
    )
    callbacks = [KeyedSeed(0), FrozenBackboneAdapter(SSF(), OneHot())]
    trainer(tmp_path, callbacks, epochs=8, enable_checkpointing=False, limit_val_batches=0).fit(
        one, data(kind, length=96, batch_size=16, policy=UniformCombinations(include_full=False))
    )
    result = sweep(one, data(kind, length=96, batch_size=32), trainer=trainer(tmp_path, []), bootstrap=0)
    before, after = result.mean("zero_fill"), result.mean("adapted")
    assert after > before + 0.1, (before, after)
