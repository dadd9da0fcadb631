"""``late_share``: the mean of the auxiliary heads decides on incomplete samples too, on complete ones never."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_mm.adapters import Additive
from lightning_mm.callbacks import FrozenBackboneAdapter, TrainOnly
from lightning_mm.cli.lightning.export import export_task
from lightning_mm.data import ModalityDropoutDataModule, Scenes
from lightning_mm.errors import LightningMMError
from lightning_mm.sweep import sweep
from lightning_mm.sweep.fills import rows_of
from lightning_mm.tasks import BaseTask
from lightning_mm.tasks.checkpoints import load_weights
from lightning_mm.testing import assert_missing_invariant
from tests.support.late_heads import NAMES, build, inputs

MASKS = NAMES.masks()[torch.arange(6) % 3]
QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def rows(size: int = 8) -> DataLoader[Any]:
    """Samples that lack one modality or none, in turn."""
    values, masks = inputs(size), NAMES.masks()[torch.arange(size) % 3]
    full = torch.ones(2, dtype=torch.bool)
    made = [
        {
            "inputs": {name: value[i] for name, value in values.items()},
            "target": torch.tensor(i % 3),
            "index": i,
            "observed": full,
            "available": masks[i],
        }
        for i in range(size)
    ]
    return DataLoader(made, batch_size=4)  # type: ignore[arg-type]


def trained_base(folder: Path, with_heads: bool = True) -> Path:
    """The checkpoint of a base after an epoch, with its heads or without."""
    trainer = Trainer(max_epochs=1, limit_val_batches=0, accelerator="cpu", default_root_dir=folder, **QUIET)
    trainer.fit(build(False, auxiliary_weight=0.5 if with_heads else 0.0).train(), rows(), rows())
    trainer.save_checkpoint(folder / "base.ckpt")
    return folder / "base.ckpt"


def fit(task: BaseTask, folder: Path, callback: Callback) -> None:
    trainer = Trainer(
        max_epochs=2, limit_val_batches=0, accelerator="cpu", default_root_dir=folder, callbacks=[callback], **QUIET
    )
    trainer.fit(task, rows(), rows())
    trainer.save_checkpoint(folder / "adapter.ckpt")
    task.eval()


def heads_of(task: BaseTask) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in task.state_dict().items() if key.startswith("auxiliary.")}


@pytest.mark.parametrize("dense", [False, True])
def test_is_the_weighted_mean_of_both(dense: bool) -> None:
    values = inputs()
    network, late, mixed = build(dense), build(dense, late_drop=True), build(dense, late_share=0.25)
    alone, heads, found = (task(values, MASKS) for task in (network, late, mixed))
    complete = MASKS.all(1)
    assert torch.equal(found[complete], alone[complete])
    torch.testing.assert_close(found[~complete], (0.75 * alone + 0.25 * heads)[~complete])
    assert torch.equal(mixed(values), network(values))
    assert_missing_invariant(mixed, NAMES, values)


@pytest.mark.parametrize("with_heads", [True, False])
def test_an_adapter_learns_on_it_and_so_do_heads_that_the_base_lacks(with_heads: bool, tmp_path: Path) -> None:
    base = trained_base(tmp_path, with_heads)
    task = build(False, late_share=0.5, base_ckpt=str(base))
    before, network = heads_of(task), build(False, base_ckpt=str(base))
    start, complete = network(inputs(), MASKS), MASKS.all(1)
    state = torch.load(base, weights_only=True)["state_dict"]
    assert all(torch.equal(state[key], value) for key, value in before.items() if with_heads)
    fit(task, tmp_path, FrozenBackboneAdapter(basis=Additive()))
    assert all(torch.equal(value, before[key]) == with_heads for key, value in heads_of(task).items())
    found = task(inputs(), MASKS)
    assert torch.equal(found[complete], start[complete]), "the full combination is that of the base"
    assert not torch.allclose(found[~complete], start[~complete])
    again = build(False, late_share=0.5, base_ckpt=str(base))
    FrozenBackboneAdapter(basis=Additive()).load(again, tmp_path / "adapter.ckpt")
    assert torch.equal(again(inputs(), MASKS), found)
    result = sweep({"mine": task}, rows(), modalities=list(NAMES), bootstrap=0)
    counts = result.parameters["mine"]
    own = sum(one.numel() for one in (*task.adapter.parameters(), *task.auxiliary.parameters()))  # type: ignore[union-attr]
    assert counts["trained"] == own
    assert counts["per_combination"] == task.adapter.parameters_per_combination() + 3 * (6 + 1)  # type: ignore[union-attr,operator]


def test_heads_alone_train_on_a_frozen_base(tmp_path: Path) -> None:
    base = trained_base(tmp_path, with_heads=False)
    task = build(False, late_share=1.0, base_ckpt=str(base))
    before, network = heads_of(task), build(False, base_ckpt=str(base))
    fit(task.train(), tmp_path, TrainOnly(["*"], network="auxiliary"))
    assert not any(torch.equal(value, before[key]) for key, value in heads_of(task).items())
    assert all(torch.equal(value, network.model.state_dict()[key]) for key, value in task.model.state_dict().items())
    found, complete = task(inputs(), MASKS), MASKS.all(1)
    assert torch.equal(found[complete], network(inputs(), MASKS)[complete])
    late = build(False, late_drop=True)
    load_weights(late, tmp_path / "adapter.ckpt")
    torch.testing.assert_close(found[~complete], late(inputs(), MASKS)[~complete], rtol=0, atol=0)


def test_encoders_that_run_on_fewer_rows_are_no_obstacle(tmp_path: Path) -> None:
    """Encoders of an adapted network skip equal rows of absent modalities, and the heads need all of them."""
    task = build(False, late_share=1.0, base_ckpt=str(trained_base(tmp_path)))
    fit(task, tmp_path, FrozenBackboneAdapter(basis=Additive()))
    assert task.adapter.encoders  # type: ignore[union-attr]
    alone = torch.cat([task({n: v[i : i + 1] for n, v in inputs().items()}, MASKS[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(task(inputs(), MASKS), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dense", [False, True])
def test_heads_of_low_rank(dense: bool) -> None:
    task = build(dense, auxiliary_rank=2, late_share=1.0)
    width = 5 if dense else 6
    assert {tuple(one.shape[:2]) for one in task.auxiliary.heads["audio"].parameters()} == {(2, width), (3, 2), (3,)}  # type: ignore[union-attr]
    assert task.auxiliary.parameters_per_combination() == 2 * (width + 3) + 3  # type: ignore[union-attr,operator]
    assert_missing_invariant(task, NAMES, inputs())


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match="late_share must be between 0 and 1, got 2"):
        build(False, late_share=2.0)
    for settings in ({"auxiliary_weight": 0.0}, {"late_drop": True}):
        with pytest.raises(LightningMMError, match="late_share needs auxiliary heads: set auxiliary_weight, and leave"):
            build(False, late_share=0.5, **settings)
    with pytest.raises(LightningMMError, match="auxiliary_rank must be a whole number of at least 1, got 0"):
        build(False, auxiliary_rank=0)
    with pytest.raises(LightningMMError, match="auxiliary_rank needs auxiliary heads; set auxiliary_weight above 0"):
        build(False, auxiliary_rank=2, auxiliary_weight=0.0)
    data = ModalityDropoutDataModule(Scenes, list(NAMES))
    with pytest.raises(LightningMMError, match=r"late_share: the auxiliary heads are a part of the task .* not export"):
        export_task(Trainer(logger=False, accelerator="cpu"), build(False, late_share=0.5), data, str(tmp_path / "out"))


def test_a_base_is_trained_as_without_it() -> None:
    batch = next(iter(rows()))
    batch["available"] = torch.ones_like(batch["available"])
    losses = []
    for settings in ({}, {"late_share": 0.5}):
        task = build(False, **settings).train()  # type: ignore[arg-type]
        task.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        torch.manual_seed(0)
        losses.append(task.training_step(batch, 0))
    assert torch.equal(losses[0], losses[1])


def test_with_the_adapter_off_the_base_decides_alone(tmp_path: Path) -> None:
    """A sweep calls this ``zero_fill``; a teacher must not change with the heads that train."""
    base = trained_base(tmp_path)
    task, network = build(False, late_share=1.0, base_ckpt=str(base)), build(False, base_ckpt=str(base))
    fit(task, tmp_path, FrozenBackboneAdapter(basis=Additive()))
    with task.adapter.disabled():  # type: ignore[union-attr,operator]
        assert torch.equal(task(inputs(), MASKS), network(inputs(), MASKS))
    result = sweep({"mine": task}, rows(), modalities=list(NAMES), bootstrap=0)
    plain = sweep({"zero_fill": network}, rows(), modalities=list(NAMES), bootstrap=0)
    for combination in NAMES.combinations():
        key = f"zero_fill/{combination}/confidence"
        assert (result.samples[key] == plain.samples[key]).all()
    bare = build(False, late_share=1.0, base_ckpt=str(base))
    row = rows_of(bare, ["noise_fill"], ModalityDropoutDataModule(Scenes, list(NAMES)), tmp_path)["noise_fill"]
    row.fill_by(network.fill)
    assert torch.equal(row(inputs(), MASKS), network(inputs(), MASKS))


def test_a_grouped_adapter_is_refused(tmp_path: Path) -> None:
    task = build(False, late_share=1.0, base_ckpt=str(trained_base(tmp_path)))
    with pytest.raises(LightningMMError, match=r"late_share: .* `grouped` runs the network once for each combination"):
        fit(task, tmp_path, FrozenBackboneAdapter(grouped=True))
