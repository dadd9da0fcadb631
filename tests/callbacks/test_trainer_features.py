"""Features of Lightning's Trainer around `FrozenBackboneAdapter`: each works in any order, or one message says why not.

Works means: the base is unchanged bit for bit, every bank of the adapter has moved, and the best checkpoint holds no
base and is accepted by the test that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mm.adapters import fingerprint
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.errors import LightningMMError
from tests.support.their_module import Samples, Theirs, callback, loader

pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback, but"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:`.fit\\(ckpt_path=None\\)` was called without a model"),
    pytest.mark.filterwarnings("ignore:.fit\\(ckpt_path=.last.\\) is set, but"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:`Trainer.barebones"),
    pytest.mark.filterwarnings("ignore:You are trying to `self.log"),
]


class Module(Theirs):
    """With data of its own, whose batch size can be tuned, and without BatchNorm where a test asks for that."""

    def __init__(self, norm: bool = True) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.batch_size, self.lr = 8, 0.05
        if not norm:
            self.net.camera[1] = self.net.radar[1] = nn.Identity()

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Samples(), batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return loader()

    predict_dataloader = test_dataloader

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return self.net(batch[0], echo=batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Validates(Module):
    def val_dataloader(self) -> Any:
        return loader()


class SeveralLoaders(Module):
    def val_dataloader(self) -> Any:
        return [loader(), loader()]

    def test_dataloader(self) -> Any:
        return {"one": loader(), "two": loader()}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.step(batch))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("test_loss", self.step(batch))


class Manual(Module):
    """Optimizes by itself, with two optimizers and a schedule, as GANs do."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        first, second = self.optimizers()  # type: ignore[misc]
        self.toggle_optimizer(first)
        first.zero_grad()
        self.manual_backward(self.step(batch))
        self.clip_gradients(first, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        first.step()
        self.untoggle_optimizer(first)
        with second.toggle_model():
            second.step(closure=lambda: None)
        self.lr_schedulers().step()  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        first = torch.optim.AdamW(self.parameters(), lr=self.lr)
        return [first, torch.optim.SGD(self.parameters(), lr=0.0)], [torch.optim.lr_scheduler.StepLR(first, 1)]


class Prunes(Callback):
    """Changes the base, as a callback that knows nothing of adapters may."""

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.net.head.weight[0] = 0.0


class Finetuning(BackboneFinetuning):
    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Without the check of the parent that there is a `backbone`."""

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.make_trainable(pl_module.net)

    def freeze_before_training(self, pl_module: Any) -> None:
        """Nothing: the adapter has done so."""


Make = Callable[[], Any]
WORKING: dict[str, tuple[Make, Make, dict[str, Any]]] = {
    "weight averaging": (Module, WeightAveraging, {}),
    "moving average": (Validates, lambda: EMAWeightAveraging(decay=0.9), {}),
    "moving average of few steps": (Module, lambda: EMAWeightAveraging(decay=0.3, update_starting_at_step=3), {}),
    "stochastic averaging": (lambda: Module(norm=False), lambda: StochasticWeightAveraging(0.05, 1), {}),
    "learning rate finder": (Module, lambda: LearningRateFinder(num_training_steps=8), {}),
    "batch size finder": (Validates, lambda: BatchSizeFinder(max_trials=2), {}),
    "manual": (Manual, Callback, {}),
    "manual, mixed precision": (Manual, Callback, {"precision": "bf16-mixed"}),
    "barebones": (Module, None, {"barebones": True}),  # type: ignore[dict-item]
    "accumulation": (Module, Callback, {"accumulate_grad_batches": 3}),
    "accumulation scheduler": (Module, lambda: GradientAccumulationScheduler({0: 2, 1: 1}), {}),
    "overfit": (Module, Callback, {"overfit_batches": 2}),
    "several loaders": (SeveralLoaders, Callback, {"num_sanity_val_steps": 1}),
    "clip norm": (Module, Callback, {"gradient_clip_val": 0.1}),
    "clip value": (Module, Callback, {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
    "reload": (Validates, Callback, {"reload_dataloaders_every_n_epochs": 1}),
    "intervals": (Validates, Callback, {"val_check_interval": 2, "num_sanity_val_steps": 1}),
    "fp16": (Module, Callback, {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))}),
    "bf16": (Module, Callback, {"precision": "bf16-mixed"}),
    "bf16 weights": (Module, Callback, {"precision": "bf16-true"}),
    "anomalies": (Module, Callback, {"detect_anomaly": True}),
    "early stopping": (Validates, lambda: EarlyStopping("val_loss"), {}),
}
SLOW = ("batch size finder",)
REFUSED: dict[str, tuple[Make, Make, str]] = {
    "stochastic averaging of BatchNorm": (Module, lambda: StochasticWeightAveraging(0.05, 1), "use .*WeightAveraging"),
    "unfrozen base": (Module, Finetuning, "'camera.0.weight' and .* more of its parameters require a gradient"),
    "changed base": (Module, Prunes, "has other weights or statistics than before this fit"),
}


def run(module: LightningModule, callbacks: list[Any], folder: Path, **settings: Any) -> Trainer:
    """Fit for three epochs."""
    plain = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    if not settings.get("barebones"):
        callbacks = [*callbacks, ModelCheckpoint(folder, save_last=True)]
    settings = {"num_sanity_val_steps": 0, **settings} if not settings.get("barebones") else settings
    trainer = Trainer(
        default_root_dir=folder, max_epochs=3, accelerator="cpu", devices=1, callbacks=callbacks, **plain, **settings
    )  # fmt: skip
    trainer.fit(module)
    return trainer


def quiet(callbacks: list[Any], **settings: Any) -> Trainer:
    plain = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    return Trainer(accelerator="cpu", devices=1, callbacks=callbacks, **dict.fromkeys(plain, False), **settings)


def orders(extra: Make) -> list[list[Any]]:
    if extra is None:
        return [[callback()]]
    return [[extra(), callback()], [callback(), extra()]]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in WORKING]
)
def test_features_work_in_any_order(tmp_path: Path, name: str) -> None:
    make, extra, settings = WORKING[name]
    for number, callbacks in enumerate(orders(extra)):
        folder, module = tmp_path / str(number), make()
        before = deepcopy(module.net)
        trainer = run(module, callbacks, folder, **settings)
        dtype = next(module.net.parameters()).dtype
        assert fingerprint(module.net) == fingerprint(before.to(dtype)), number
        assert all(bank.scale.abs().sum() > 0 for bank in module.adapter.banks.values()), number
        if settings.get("barebones"):
            continue
        path = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
        assert "net." not in str(torch.load(path, weights_only=True).keys())
        assert not [key for key in keys_in(torch.load(path, weights_only=True)) if "net.camera" in key], number
        trainer.test(module, ckpt_path="best", verbose=False)
        trainer.predict(module, return_predictions=False)
        quiet([callback()]).test(make(), ckpt_path=path, verbose=False)
        assert module.adapter.current.situation.available is None


def keys_in(nest: Any) -> list[str]:
    """All keys of all dicts inside."""
    if isinstance(nest, dict):
        return [*map(str, nest), *(key for value in nest.values() for key in keys_in(value))]
    return [key for value in nest for key in keys_in(value)] if isinstance(nest, (list, tuple)) else []


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_one_message(tmp_path: Path, name: str) -> None:
    make, extra, message = REFUSED[name]
    for callbacks in orders(extra):
        with pytest.raises(LightningMMError, match=message):
            run(make(), callbacks, tmp_path)


def test_averages_are_averages_of_the_adapter(tmp_path: Path) -> None:
    found = {}
    for name in ("none", "first", "last"):
        average, adapter = EMAWeightAveraging(decay=0.9), callback()
        callbacks = {"none": [adapter], "first": [average, adapter], "last": [adapter, average]}[name]
        module = Module()
        steps: list[Tensor] = []
        run(module, [*callbacks, Recorder(steps)], tmp_path / name)
        found[name] = vector(module)
        expected = steps[0]
        for step in steps[1:]:
            expected = 0.9 * expected + 0.1 * step
        torch.testing.assert_close(found[name], steps[-1] if name == "none" else expected)
    assert torch.equal(found["first"], found["last"])


class Recorder(Callback):
    def __init__(self, steps: list[Tensor]) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.steps.append(vector(pl_module))


def vector(module: Any) -> Tensor:
    return torch.cat([one.detach().flatten().clone() for one in module.adapter.parameters()])


def test_an_averaged_run_is_resumed(tmp_path: Path) -> None:
    for average in (lambda: EMAWeightAveraging(decay=0.9), lambda: StochasticWeightAveraging(0.05, 1)):
        module = Module(norm=False)
        trainer = run(module, [average(), callback()], tmp_path / average().__class__.__name__)
        again = quiet([average(), callback()], max_epochs=4)
        resumed = Module(norm=False)
        again.fit(resumed, ckpt_path=trainer.checkpoint_callback.last_model_path)  # type: ignore[union-attr]
        assert again.current_epoch == 4
        assert fingerprint(resumed.net) == fingerprint(module.net)


class Holds(Callback):
    """Averages weights by means of its own."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.copy = deepcopy(pl_module)


def test_another_callback_with_a_copy_from_before_is_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Holds holds a copy of Module .* list FrozenBackboneAdapter before Holds"):
        run(Module(), [Holds(), callback()], tmp_path)
    run(Module(), [callback(), Holds()], tmp_path)


@pytest.mark.slow
def test_the_tuner_tunes(tmp_path: Path) -> None:
    module = Validates()
    trainer = quiet([callback()], max_epochs=5, default_root_dir=tmp_path)
    tuner = Tuner(trainer)
    base = fingerprint(module.net)
    assert tuner.lr_find(module, num_training=20, early_stop_threshold=None).suggestion()  # type: ignore[union-attr]
    tuner.scale_batch_size(module, max_trials=2, init_val=4)
    tuner.scale_batch_size(module, max_trials=2, init_val=4, method="test")
    trainer.fit(module)
    assert fingerprint(module.net) == base
    assert all(bank.scale.abs().sum() > 0 for bank in module.adapter.banks.values())
    assert [name for name in vars(module) if name.endswith("batch_start")] == []


def test_an_exception_leaves_a_checkpoint(tmp_path: Path) -> None:
    class Fails(Module):
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        run(Fails(), [OnExceptionCheckpoint(tmp_path), callback()], tmp_path)
    quiet([callback()]).test(Module(), ckpt_path=tmp_path / "on_exception.ckpt", verbose=False)


def test_fast_dev_run(tmp_path: Path) -> None:
    module = Validates()
    run(module, [EMAWeightAveraging(), callback()], tmp_path, fast_dev_run=True)
    assert any(bank.scale.abs().sum() > 0 for bank in module.adapter.banks.values())


def test_load_from_checkpoint_says_how_to_load_an_adapter(tmp_path: Path) -> None:
    module = Module()
    path = run(module, [callback()], tmp_path).checkpoint_callback.best_model_path  # type: ignore[union-attr]
    for strict in (None, True, False):
        with pytest.raises(ValueError, match=r"holds an adapter and not its base, .* FrozenBackboneAdapter\(\.\.\.\)"):
            Module.load_from_checkpoint(path, strict=strict)
    torch.save({"state_dict": module.state_dict()}, tmp_path / "base.ckpt")
    torch.save(module.net.state_dict(), tmp_path / "base.pt")
    again = callback(base_ckpt=str(tmp_path / "base.pt")).load(Theirs(), path)
    batch = next(iter(loader()))
    with torch.no_grad(), module.adapter.using(batch[2]), again.adapter.using(batch[2]):
        assert torch.equal(again.net(batch[0], batch[1]), module.eval().net(batch[0], batch[1]))
    with pytest.raises(LightningMMError, match="another network or has other weights"):
        FrozenBackboneAdapter(network="net").load(Theirs(), path)
    with pytest.raises(LightningMMError, match="holds no adapter"):
        FrozenBackboneAdapter(network="net").load(Theirs(), tmp_path / "base.ckpt")
