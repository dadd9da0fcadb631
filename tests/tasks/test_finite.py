"""Values that are not finite stop a run by one error that names the sample, before anything is spoiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_mm.callbacks import FiniteCheck, FrozenBackboneAdapter
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Complete
from lightning_mm.sweep import sweep
from lightning_mm.tasks import ClassificationTask, Distillation, SentimentTask
from lightning_mm.tasks.checkpoints import load_network, load_weights
from tests.support.their_module import Samples, Theirs, callback

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

SIZE, BATCH = 24, 4


class Toy(Dataset[Any]):
    """Sums as targets; `poison` maps (split, sample) to what is wrong with it."""

    def __init__(self, split: str, poison: dict[tuple[str, int], tuple[str, float]], lacks: int = -1) -> None:
        self.split, self.poison, self.lacks = split, poison, lacks

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> dict[str, Any]:
        audio, text = torch.randn(2, 4, generator=torch.Generator().manual_seed(i)).unbind()
        target = (audio.sum() + text.sum()).clamp(-3, 3)
        inputs: dict[str, Any] = {"audio": audio, "text": {"vector": text}}
        if (self.split, i) in self.poison:
            where, value = self.poison[self.split, i]
            if where == "target":
                target = torch.tensor(value)
            else:
                (audio if where == "audio" else text)[1] = value
        if i == self.lacks:
            inputs["audio"] = None
        return {"inputs": inputs, "target": target}


class Net(nn.Module):
    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.a, self.t, self.norm = nn.Linear(4, outputs), nn.Linear(4, outputs), nn.BatchNorm1d(outputs)

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        return self.norm(self.a(inputs["audio"]) + self.t(inputs["text"]["vector"]))


def task(**settings: Any) -> SentimentTask:
    torch.manual_seed(0)
    return SentimentTask(
        Net(), ["audio", "text"], optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05), **settings
    )


def data(poison: dict[tuple[str, int], tuple[str, float]], **settings: Any) -> ModalityDropoutDataModule:
    lacks = settings.pop("lacks", -1)
    settings = {"train_policy": Complete(), "batch_size": BATCH, **settings}
    return ModalityDropoutDataModule(lambda split: Toy(split, poison, lacks), ["audio", "text"], **settings)


def trainer(folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    plain = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    plain = {"max_epochs": 2, "num_sanity_val_steps": 0, **plain, **settings}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, callbacks=list(callbacks), **plain)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([one.detach().flatten().clone() for one in module.parameters()])


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        ({("train", 5): ("audio", math.inf)}, "index 5 holds inf in modality 'audio'; correct"),
        ({("train", 5): ("text", math.nan)}, r"index 5 holds nan in modality 'text' \(vector\)"),
        ({("val", 7): ("audio", math.nan)}, "the validation loss is nan, .*index 7 holds nan in modality 'audio'"),
    ],
)
@pytest.mark.parametrize("adapted", [False, True])
def test_a_sample_stops_the_run_before_weights_and_checkpoints_are_spoiled(
    tmp_path: Path, poison: Any, message: str, adapted: bool
) -> None:
    module, saver = task(), ModelCheckpoint(tmp_path, save_last=True)
    hooks = [FrozenBackboneAdapter()] if adapted else []
    trainer(tmp_path, *hooks, saver, max_epochs=1).fit(module, datamodule=data({}))
    first = saver.last_model_path
    good = Path(first).read_bytes()
    again = task()
    runner = trainer(tmp_path, *[FrozenBackboneAdapter()] * adapted, ModelCheckpoint(tmp_path, save_last=True))
    with pytest.raises(LightningMMError, match=message):
        runner.fit(again, datamodule=data(poison), ckpt_path=first)
    assert weights(again).isfinite().all()
    assert Path(first).read_bytes() == good


def test_what_is_absent_is_not_blamed_and_what_only_the_teacher_sees_is(tmp_path: Path) -> None:
    hidden = data({}, lacks=5)
    trainer(tmp_path, enable_checkpointing=False).fit(task(), datamodule=hidden)
    module = task(distillation=Distillation(weight=1.0))
    with pytest.raises(LightningMMError, match="index 5 holds nan in modality 'audio'"):
        trainer(tmp_path, FrozenBackboneAdapter(), enable_checkpointing=False).fit(
            module, datamodule=data({("train", 5): ("audio", math.nan)}, train_policy=None)
        )
    assert weights(module).isfinite().all()


def test_skipped_batches_leave_the_weights_as_if_they_did_not_exist(tmp_path: Path) -> None:
    found = {}
    for name in ("skipped", "left out"):
        module = task()
        batches = list(loader({("train", 5): ("audio", math.inf)}, range(SIZE)))
        check = FiniteCheck(skip=True)
        runner = trainer(tmp_path, check, enable_checkpointing=False, max_epochs=1)
        if name == "skipped":
            with pytest.warns(UserWarning, match="skipped a training step, 1 so far: .*index 5 holds inf in modality"):
                runner.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
            assert check.skipped == 1
            assert float(runner.logged_metrics["train/skipped_batches"]) == 1.0
        else:
            runner.fit(module, DataLoader([*batches[:1], *batches[2:]], batch_size=None))  # type: ignore[arg-type]
        found[name] = module.state_dict()
    assert all(torch.equal(value, found["left out"][key]) for key, value in found["skipped"].items())


@pytest.mark.filterwarnings("ignore:skipped a training step")
def test_an_accumulated_step_is_skipped_as_a_whole_and_an_epoch_of_nothing_is_an_error(tmp_path: Path) -> None:
    module, check = task(), FiniteCheck(skip=True)
    runner = trainer(tmp_path, check, enable_checkpointing=False, max_epochs=1, accumulate_grad_batches=3)
    runner.fit(module, datamodule=data({("train", 5): ("audio", math.inf)}))
    assert check.skipped == 1
    assert weights(module).isfinite().all()
    every = {("train", index): ("audio", math.nan) for index in range(SIZE)}
    with pytest.raises(LightningMMError, match="skipped all 6 steps of epoch 0"):
        trainer(tmp_path, FiniteCheck(skip=True), enable_checkpointing=False).fit(task(), datamodule=data(every))


def loader(poison: dict[tuple[str, int], tuple[str, float]], samples: Any) -> Any:
    module = data(poison)
    module.setup("fit")
    collate = module.train_dataloader().collate_fn
    toy = Toy("train", poison)
    rows = [{**toy[index], "index": index} for index in samples]
    return [collate(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]


class Root(Theirs):
    """A loss with a finite value and a gradient that is not: a root at zero."""

    def __init__(self, at: float = 0.0) -> None:
        super().__init__()
        self.at = at

    def step(self, batch: tuple[Tensor, ...]) -> Tensor:
        outputs = self.net(batch[0], batch[1])
        return nn.functional.cross_entropy(outputs, batch[3]) + (outputs * self.at).sum().sqrt()


def theirs(size: int = 32) -> DataLoader[Any]:
    return DataLoader(Samples(size), batch_size=8)


def test_a_gradient_alone_stops_the_run_too(tmp_path: Path) -> None:
    module = Root()
    with pytest.raises(LightningMMError, match=r"the gradient is not finite, while .* the network or its loss"):
        trainer(tmp_path, callback(), enable_checkpointing=False).fit(module, theirs())
    assert weights(module).isfinite().all()


def test_gradients_that_overflow_are_normal_under_a_gradient_scaler_until_its_scale_is_small(tmp_path: Path) -> None:
    def run(module: LightningModule, scale: float) -> MixedPrecision:
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        trainer(tmp_path, callback(), enable_checkpointing=False, plugins=plugin, max_epochs=4).fit(module, theirs())
        return plugin

    module = Theirs()
    assert run(module, 2.0**127).scaler.get_scale() < 2.0**127  # type: ignore[union-attr]
    assert weights(module).isfinite().all()
    with pytest.raises(LightningMMError, match="the gradient is not finite"):
        run(Root(), 4.0)


def test_a_foreign_module_names_the_modality_through_its_network(tmp_path: Path) -> None:
    samples = Samples()
    samples.echo[9] = math.inf  # observed, as only radar is available there
    assert samples.available[9].tolist() == [False, True]
    with pytest.raises(LightningMMError, match="sample 1 of the batch holds inf in modality 'radar'"):
        trainer(tmp_path, callback(), enable_checkpointing=False).fit(Theirs(), DataLoader(samples, batch_size=8))


def test_weights_that_become_infinite_in_the_last_step_are_not_saved(tmp_path: Path) -> None:
    class Overflows(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            for parameter in pl_module.parameters():
                parameter.data.add_(math.inf if parameter.requires_grad else 0.0)

    for hooks, name in (([], "model.a.weight"), ([FrozenBackboneAdapter()], "banks.a.")):
        saver = ModelCheckpoint(tmp_path, save_on_train_epoch_end=True)
        runner = trainer(tmp_path, *hooks, saver, Overflows(), max_epochs=1, limit_train_batches=1, limit_val_batches=0)
        with pytest.raises(LightningMMError, match=f"no checkpoint is written: after 1 steps '{name}"):
            runner.fit(task(), datamodule=data({}))
        assert not list(tmp_path.rglob("*.ckpt"))


def broken(change: Callable[[Any], None]) -> SentimentTask:
    module = task()
    with torch.no_grad():
        change(module.model)
    return module


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.a.weight[0, 1].fill_(math.nan), "1 of 4 values of 'model.a.weight' are nan"),
        (lambda net: net.t.bias.fill_(-math.inf), "1 of 1 values of 'model.t.bias' are inf"),
        (lambda net: net.norm.running_var.fill_(math.inf), "1 of 1 values of 'model.norm.running_var' are inf"),
    ],
)
def test_networks_that_are_not_finite_are_refused_everywhere(tmp_path: Path, change: Any, message: str) -> None:
    module = broken(change)
    path = tmp_path / "bad.ckpt"
    torch.save({"state_dict": module.state_dict()}, path)
    with pytest.raises(LightningMMError, match=f"method 'zero_fill' holds weights that are not finite: {message}"):
        sweep(module, data({}), trainer=trainer(tmp_path), bootstrap=0)
    short = message.replace("model.", "")
    with pytest.raises(LightningMMError, match=f"base_ckpt .*bad.ckpt holds weights that are not finite: {short}"):
        task(base_ckpt=str(path))
    with pytest.raises(LightningMMError, match=f"holds weights that are not finite: {message}"):
        load_weights(task(), path)
    with pytest.raises(LightningMMError, match=f"the base, Net holds weights that are not finite: {short}"):
        trainer(tmp_path, FrozenBackboneAdapter()).fit(broken(change), datamodule=data({}))
    allowed = Net()
    allowed.register_buffer("mask", torch.tensor([0.0, -math.inf]))  # of attention
    torch.save(allowed.state_dict(), path)
    load_network(deepcopy(allowed), path)


def test_a_sweep_names_the_sample_that_spoils_it(tmp_path: Path) -> None:
    runner = trainer(tmp_path)
    for where in ("audio", "text"):
        with pytest.raises(
            LightningMMError, match=f"not finite for '{where}': the sample with index 7 holds nan in modality '{where}'"
        ):
            sweep(task(), data({("test", 7): (where, math.nan)}), trainer=runner, bootstrap=0, combinations=[where])
    only = sweep(task(), data({("test", 7): ("text", math.nan)}), trainer=runner, bootstrap=0, combinations=["audio"])
    assert all(math.isfinite(row.value) for row in only.rows if row.metric == "mae")
    classes = ClassificationTask(Net(3), ["audio", "text"], 3)  # an argmax hides it
    poisoned = loader({("train", 2): ("audio", math.nan)}, range(8))
    batches = [{**batch, "target": batch["index"] % 3} for batch in poisoned]
    with pytest.raises(LightningMMError, match="index 2 holds nan in modality 'audio'"):
        sweep(classes, DataLoader(batches, batch_size=None), trainer=runner, bootstrap=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("several", [1, 2])
def test_several_loaders_are_evaluated_together(tmp_path: Path, several: int) -> None:
    module, poisoned = task(), loader({}, range(8))
    parts = [DataLoader(poisoned[number::several], batch_size=None) for number in range(several)]  # type: ignore[arg-type]
    found = trainer(tmp_path).test(module, parts, verbose=False)
    one = trainer(tmp_path).test(module, DataLoader(poisoned, batch_size=None), verbose=False)  # type: ignore[arg-type]
    together = {key: value for each in found for key, value in each.items() if "loss" not in key}
    assert together == pytest.approx({key: value for key, value in one[0].items() if key != "test/loss"}, nan_ok=True)
