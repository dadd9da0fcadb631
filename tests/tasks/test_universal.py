"""UniversalTask: what each stage learns from, what never enters, the bank, resume, ranks, sweep, export."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_mm import Modalities
from lightning_mm.adapters import SSF, Additive
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.cli.lightning.export import export_task
from lightning_mm.data import Ombria, RandomCrop
from lightning_mm.data.module import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.export import Runtime
from lightning_mm.missing import Complete, MissingRates, RotatingCombinations
from lightning_mm.models import MultiEncoderUNet, UniversalSegmenter
from lightning_mm.sweep import sweep
from lightning_mm.tasks import Distillation, UniversalTask
from lightning_mm.tasks.universal.distribution import DistributionBank
from tests.support.fake_data import write_data
from tests.support.ranks import run_ranks
from tests.support.universal import CHANNELS, NAMES, QUIET, Squares, build, data

OBSERVED = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]]).bool()
pytestmark = [pytest.mark.filterwarnings("ignore:The dirpath has changed from")]


def batch(dims: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    available = OBSERVED.clone()
    available[3, 0] = False
    return {
        "inputs": {m: torch.randn(4, count, *[8] * dims, generator=generator) for m, count in CHANNELS.items()},
        "available": available, "observed": OBSERVED.clone(), "index": torch.arange(4),
        "target": torch.randint(0, 2, (4, *[8] * dims), generator=generator),
    }  # fmt: skip


def ready(folder: Path, stage: Any, dims: int = 2, **settings: Any) -> UniversalTask:
    """A task as a fit has it, without a trainer; the first stage behind the second is untrained."""
    if stage == "segment":
        torch.save(build(dims, stage="reconstruct").model.state_dict(), folder / "first.pt")
        settings = {"base_ckpt": str(folder / "first.pt"), "prototypes": 0.1, "hyper": True, **settings}
    task = build(dims, stage=stage, **settings)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    task.setup("fit")
    return task.train()


def step(task: UniversalTask, given: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    task.zero_grad()
    loss = task.training_step(given, 0)
    loss.backward()
    return loss.detach(), {name: one.grad.clone() for name, one in task.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("stage", ["reconstruct", "segment"])
def test_what_does_not_exist_or_is_hidden_changes_no_loss_and_no_gradient(
    stage: Any, dims: int, tmp_path: Path
) -> None:
    given = batch(dims)
    poisoned = copy.deepcopy(given)
    for column, name in enumerate(NAMES):
        poisoned["inputs"][name][~OBSERVED[:, column]] = torch.nan
    settings: dict[str, Any] = {} if stage == "reconstruct" else {"ema": 0.5}
    loss, gradients = step(ready(tmp_path, stage, dims, **settings), given)
    again, others = step(ready(tmp_path, stage, dims, **settings), poisoned)
    assert loss.isfinite()
    assert torch.equal(loss, again)
    assert list(gradients) == list(others)
    assert all(torch.equal(one, others[name]) for name, one in gradients.items())
    parts = {name.split(".")[1] for name in gradients}
    left_out = {"narrow", "head", "hyper"} if stage == "reconstruct" else {"reconstruction"}
    assert (
        parts == {"encoders", "fusion", "decoder", "template", "reconstruction", "narrow", "head", "hyper"} - left_out
    )


def test_the_error_is_over_what_exists_hidden_or_not() -> None:
    task, given = build(stage="reconstruct"), batch()
    inputs = task.existing(given)
    found = {name: torch.randn_like(value) for name, value in inputs.items()}
    squared, count = task.squared_error(found, inputs, OBSERVED)
    expected, terms = 0.0, 0
    for row in range(4):
        for column, name in enumerate(NAMES):
            if OBSERVED[row, column]:
                expected += float((found[name][row] - given["inputs"][name][row]).square().sum())
                terms += found[name][row].numel()
    assert float(squared) == pytest.approx(expected, rel=1e-5)
    assert int(count) == terms
    changed = {name: value.clone() for name, value in found.items()}
    changed["b"][1], changed["a"][2] = 100.0, torch.nan
    assert torch.equal(task.squared_error(changed, inputs, OBSERVED)[0], squared)


@pytest.mark.parametrize("kind", ["moments", "hist"])
def test_the_bank_learns_from_samples_that_have_a_modality_alone(kind: Any) -> None:
    task, given = build(stage="reconstruct"), batch()
    bank, inputs = DistributionBank(task.model, kind), task.existing(given)
    nowhere = OBSERVED.clone()
    nowhere[:, 1] = False
    foreground = bank.foreground(inputs, nowhere)
    bank.update(inputs, nowhere, foreground)
    assert not bank.bank(1).any(), "a modality that no sample has leaves its statistics untouched"
    assert bank.bank(0).any()
    found = {name: torch.randn_like(value).requires_grad_() for name, value in inputs.items()}
    alone = torch.tensor([[True, False]]).expand(4, -1)
    assert bank(found, alone, bank.foreground(inputs, alone)) == 0, "nothing is known of b"
    one = torch.tensor([[True, True], [True, False], [True, False], [True, False]])
    bank.update(inputs, one, bank.foreground(inputs, one))
    only = bank.describe("b", inputs["b"][:1], bank.foreground(inputs, one)[:1])[0]
    torch.testing.assert_close(bank.bank(1), only), "that of the first sample"
    before = bank.bank(1).clone()
    poisoned = {**inputs, "b": torch.cat([inputs["b"][:1], torch.full_like(inputs["b"][1:], torch.nan)])}
    bank.update(poisoned, one, bank.foreground(inputs, one))
    torch.testing.assert_close(bank.bank(1), before), "it stays, whatever stands in the other samples"
    term = bank(found, OBSERVED, bank.foreground(inputs, OBSERVED))
    term.backward()  # type: ignore[no-untyped-call]
    gradients = {name: one.grad for name, one in found.items()}
    for column, name in enumerate(NAMES):
        gradient = gradients[name]
        assert gradient is not None
        assert gradient.flatten(1).any(1).tolist() == (~OBSERVED[:, column]).tolist()


def test_statistics_are_those_of_the_foreground() -> None:
    task = build(stage="reconstruct")
    image = torch.randn(1, 1, 8, 8)
    there = torch.rand(1, 1, 8, 8) > 0.4
    values = image[there].double().numpy()
    moments = DistributionBank(task.model, "moments").describe("a", image, there)[0]
    np.testing.assert_allclose(moments[:2].detach().numpy(), [values.mean(), values.std()], rtol=1e-4, atol=1e-5)
    quantiles = DistributionBank(task.model, "hist").describe("a", image, there)[0, :32].detach().numpy()
    np.testing.assert_allclose(quantiles, np.quantile(values, (np.arange(32) + 0.5) / 32), rtol=1e-4, atol=1e-5)
    nothing = DistributionBank(task.model, "moments")
    nothing.update({"a": image, "b": torch.zeros(1, 2, 8, 8)}, torch.tensor([[True, True]]), there)
    empty = torch.zeros_like(there)
    assert nothing({"a": image, "b": image.expand(1, 2, 8, 8)}, torch.tensor([[True, False]]), empty) == 0


def test_a_completed_sample_is_its_own_where_it_exists(tmp_path: Path) -> None:
    task, given = ready(tmp_path, "segment"), batch()
    completed = task.completed(given)
    found = task._completer[0].reconstruct(task.existing(given), OBSERVED)
    for column, name in enumerate(NAMES):
        rows = OBSERVED[:, column]
        assert torch.equal(completed[name][rows], given["inputs"][name][rows]), "also what the student does not see"
        assert torch.equal(completed[name][~rows], found[name][~rows])
        assert not completed[name].requires_grad
    task = build(distil=0.5).train()
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    with pytest.raises(LightningMMError, match="give its checkpoint as base_ckpt, or set distil and prototypes to 0"):
        task.training_step(given, 0)


def fit(task: UniversalTask, folder: Path, epochs: int, ckpt_path: Path | None = None, **more: Any) -> Trainer:
    saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer = Trainer(default_root_dir=folder, max_epochs=epochs, callbacks=[KeyedSeed(3), saver], **QUIET)
    trainer.fit(task, data(train_observed=MissingRates(0.4), **more), ckpt_path=ckpt_path)
    return trainer


def test_two_stages_resume_and_sweep(tmp_path: Path) -> None:
    states: list[dict[str, Tensor]] = []
    stages: list[dict[str, Any]] = [
        {"stage": "reconstruct"},
        {"base_ckpt": str(tmp_path / "reconstruct" / "epoch=1.ckpt"), "hyper": True, "ema": 0.9},
    ]
    for settings in stages:
        stage = settings.get("stage", "segment")
        whole, resumed = build(**settings), build(**settings)
        logged = fit(whole, tmp_path / stage, 2).callback_metrics
        fit(resumed, tmp_path / f"{stage}_resumed", 2, tmp_path / stage / "epoch=0.ckpt")
        states = [dict(one.state_dict()) for one in (whole, resumed)]
        assert list(states[0]) == list(states[1])
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
        assert any(name.startswith(("distribution.", "averaged.")) for name in states[0])
        assert ("val/iou" in logged) == (stage == "segment")
        assert ("val/explained_variance/a" in logged) == (stage == "reconstruct")
    assert whole.averaged is not None
    kept, current = (one.head.weights for one in (whole.averaged, whole.model))
    assert not torch.equal(kept, current)
    swept = build(hyper=True)  # without base_ckpt, and without what only training needs
    checkpoint = torch.load(tmp_path / "segment" / "epoch=1.ckpt", weights_only=True)
    swept.on_load_checkpoint(checkpoint)
    swept.load_state_dict(checkpoint["state_dict"])
    result = sweep({"universal": swept}, data(), trainer=Trainer(**QUIET), bootstrap=0)
    assert {row.combination for row in result.rows} == {"a", "b", "a+b"}
    first = build(stage="reconstruct")
    first.on_load_checkpoint(torch.load(tmp_path / "reconstruct" / "epoch=1.ckpt", weights_only=True))
    with pytest.raises(LightningMMError, match="is of stage reconstruct, which trains no head"):
        sweep({"autoencoder": first}, data(), trainer=Trainer(**QUIET), bootstrap=0)


def test_the_template_starts_at_the_mean_of_what_exists_and_crops_know_their_place(tmp_path: Path) -> None:
    task = build(stage="reconstruct", template_lr=0.0, template_weight=0.0)
    fit(task, tmp_path, 1, augment=RandomCrop((4, 4)))
    inputs, table = Squares("train").inputs, MissingRates(0.4).draw(NAMES, range(12), epoch=0, seed=5)
    means = torch.cat([inputs[name][table[:, column]].mean(0) for column, name in enumerate(NAMES)])
    torch.testing.assert_close(task.model.template.values[0], means)
    cropped = data(augment=RandomCrop((4, 4)), train_policy=Complete())
    cropped.setup("fit")
    for one in cropped.train_dataloader():
        for row, (top, left) in enumerate(one["corner"].tolist()):
            whole = inputs["b"][one["index"][row]]
            assert torch.equal(one["inputs"]["b"][row], whole[:, top : top + 4, left : left + 4])
    assert all("corner" not in one for one in cropped.val_dataloader())
    large = UniversalTask(
        UniversalSegmenter(CHANNELS, 2, size=16, cell=4, widths=[4, 6]), list(NAMES), 2, stage="reconstruct"
    )
    with pytest.raises(LightningMMError, match=r"the template is for samples of \(16, 16\)"):
        fit(large, tmp_path / "large", 1)


def test_files_that_a_table_hides_may_be_deleted(tmp_path: Path) -> None:
    root = write_data("ombria", tmp_path)
    names = list(Ombria.channels)
    table = MissingRates(0.5)
    found: list[dict[str, Tensor]] = []
    for deleted in (False, True):
        train = Ombria("train", str(root), size=8)
        exists = table.draw(Modalities(names), range(len(train)), epoch=0, seed=0)
        assert not exists.all()
        if deleted:
            for row, files in enumerate(train._files):
                for column, name in enumerate(names):
                    for file in [] if exists[row, column] else files[name]:
                        file.unlink()
        torch.manual_seed(0)
        network = UniversalSegmenter(Ombria.channels, 2, size=8, cell=4, widths=[4, 6])
        module = ModalityDropoutDataModule(
            lambda split: Ombria(split, str(root), size=8, allow_missing=True),
            names,
            train_observed=table,
            batch_size=4,
        )
        trainer = Trainer(
            default_root_dir=tmp_path, max_epochs=1, enable_checkpointing=False, limit_val_batches=0, **QUIET
        )
        task = UniversalTask(network, names, 2, stage="reconstruct")
        trainer.fit(task, module)
        found.append(dict(task.state_dict()))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.filterwarnings("ignore:.*layers are left out of the adapter")  # the head that reconstructs
def test_an_adapter_is_trained_on_the_outputs(tmp_path: Path) -> None:
    task = build(hyper=True)
    before = copy.deepcopy(task.model.state_dict())
    adapter = FrozenBackboneAdapter(SSF(), Additive())
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, callbacks=[adapter], enable_checkpointing=False, **QUIET)
    trainer.fit(task, data(train_policy=RotatingCombinations()))
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())
    assert any(bool((one.detach() != 0).any()) for one in task.adapter.banks.parameters())


def test_the_template_has_a_rate_of_its_own_and_does_not_decay() -> None:
    task = build(template_lr=0.5, optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.2, weight_decay=0.3))
    optimizer: Any = task.configure_optimizers()
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert found[id(task.model.template.values)] == (0.5, 0.0)
    assert found[id(task.model.head.weights)] == (0.2, 0.3)
    assert len(found) == sum(one.requires_grad for one in task.parameters())


def export_alone(rank: int, folder: Path) -> None:
    """Exports and runs programs; in a process of its own, as sizes that are symbols do not pass the type checks."""
    task, path = build(hyper=True).eval(), folder / "trained.ckpt"
    with torch.no_grad():
        for parameter in task.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    trainer = Trainer(default_root_dir=folder, **QUIET)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    export_task(trainer, task, data(), str(folder / "out"), str(path), formats=["torch"])
    runtime, given = Runtime(folder / "out"), batch()["inputs"]
    for mask in NAMES.masks():
        with torch.no_grad():
            expected = task(given, mask.expand(4, -1))
        found = runtime({name: given[name].numpy() for name in NAMES.parse(NAMES.name(mask))})
        torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_it_is_exported_with_its_head_for_every_combination(tmp_path: Path) -> None:
    run_ranks(export_alone, tmp_path, ranks=1)


def gradients_on_rank(rank: int, folder: Path) -> None:
    for stage in ("reconstruct", "segment"):
        task, given = on_one(folder, stage), batch()
        rows = slice(2 * rank, 2 * rank + 2)
        own = {key: value[rows] for key, value in given.items() if key != "inputs"}
        own["inputs"] = {name: value[rows] for name, value in given["inputs"].items()}
        task.forward = lambda one, task=task: task.training_step(one, 0)  # type: ignore[method-assign, assignment, misc]
        wrapped = DistributedDataParallel(task)
        wrapped(own).backward()
        state = {name: one.grad for name, one in task.named_parameters() if one.requires_grad}
        bank = {} if task.distribution is None else {"bank": task.distribution.bank(1)}
        torch.save({**state, **bank}, folder / f"{stage}{rank}.pt")


def on_one(folder: Path, stage: str) -> UniversalTask:
    """A task without Dice and prototypes, which are those of a rank."""
    task = ready(folder, stage, **({} if stage == "reconstruct" else {"prototypes": 0.0}))
    del task.criterion[1]
    return task


@pytest.mark.slow
def test_two_ranks_equal_one_but_for_dice_and_prototypes(tmp_path: Path) -> None:
    alone = {stage: on_one(tmp_path, stage) for stage in ("reconstruct", "segment")}
    run_ranks(gradients_on_rank, tmp_path, start="fork")
    for stage, task in alone.items():
        _, expected = step(task, batch())
        if task.distribution is not None:
            expected["bank"] = task.distribution.bank(1)
        ranks = [torch.load(tmp_path / f"{stage}{rank}.pt") for rank in range(2)]
        for name, value in expected.items():
            torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-6, msg=name)
            assert torch.equal(ranks[0][name], ranks[1][name])


def test_mistakes_are_named() -> None:
    with pytest.raises(LightningMMError, match="UniversalSegmenter, got a MultiEncoderUNet"):
        UniversalTask(MultiEncoderUNet(CHANNELS, 2), list(NAMES), 2)
    for settings, message in (
        ({"distil": -1.0}, "distil: expected 0 or more, got -1.0"),
        ({"temperature": 0.0}, "temperature: expected a number above 0"),
        ({"mask_share": 1.0}, "mask_share must be"),
        ({"auxiliary_weight": 0.5}, "has no auxiliary heads|no auxiliary losses"),
        ({"distillation": Distillation(weight=1.0)}, "has a teacher already, distil"),
    ):
        with pytest.raises(LightningMMError, match=message):
            build(**settings)
