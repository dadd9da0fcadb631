"""The teacher over a fit: its schedule, its cache, resume; on classification, sentiment and segmentation."""

from __future__ import annotations

import copy
import logging
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_mm.adapters import SSF, Additive
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.cli import main
from lightning_mm.data import Dihedral, ModalityDropoutDataModule, Scenes
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Learned, RotatingCombinations, UniformCombinations
from lightning_mm.models import MultiEncoderSegmenter
from lightning_mm.tasks import BaseTask, Distillation, SemanticSegmentationTask
from lightning_mm.tasks.checkpoints import read_checkpoint
from lightning_mm.tasks.teacher.distillation import Schedule, teacher_factor
from lightning_mm.tasks.teacher.teacher import fit_progress
from tests.support import new_tasks
from tests.support.adapter_networks import trained_statistics
from tests.support.fake_data import write_data
from tests.support.repository import REPOSITORY

CHANNELS = {"rgb": 3, "depth": 1}
LAYERS = {
    "classification": ["encoders.image", "encoders.motion", "trunk"],
    "sentiment": ["norm"],
    "segmentation": ["decoder"],
}
BATCHES = 3
pytestmark = [
    # a run is resumed from the checkpoint of another one's folder on purpose
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


def data(kind: str, augment: Any = None) -> ModalityDropoutDataModule:
    """Twelve samples in three batches; those of `classification` and `sentiment` hold sequences of many lengths."""
    if kind != "segmentation":
        return new_tasks.data(kind, policy=UniformCombinations())
    return ModalityDropoutDataModule(
        lambda split: Scenes(split, size=16, train_length=12, val_length=4),
        list(CHANNELS), train_policy=UniformCombinations(), val_policy=RotatingCombinations(),
        augment=augment, batch_size=4, seed=5,
    )  # fmt: skip


def task(kind: str, **settings: Any) -> BaseTask:
    """A task with a teacher; ``settings`` are those of the distillation."""
    distillation = Distillation(**{"weight": 0.5, "layers": LAYERS[kind], "feature_weight": 1.0, **settings})
    if kind != "segmentation":
        return new_tasks.task(kind, lr=0.05, distillation=distillation)
    torch.manual_seed(0)
    network = MultiEncoderSegmenter(CHANNELS, 6, "resnet18", encoder_depth=3, decoder_channels=[8, 8, 8])
    trained_statistics(network)
    return SemanticSegmentationTask(
        network, list(CHANNELS), 6, optimizer=lambda p: torch.optim.AdamW(p, 0.05), distillation=distillation
    )


class Watch(Callback):
    """Counts forwards of the base in each epoch, and notes losses and progress in every step."""

    def __init__(self) -> None:
        self.forwards: list[int] = []
        self.losses: list[float] = []
        self.progress: list[float] = []
        self.feature_loss: list[float] = []

    def __call__(self, network: torch.nn.Module, args: Any, kwargs: Any = None) -> None:
        if self.forwards and not torch.is_grad_enabled() and not self.validating:
            self.forwards[-1] += 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.handle = pl_module.model.register_forward_pre_hook(self)  # type: ignore[operator,union-attr]
        self.validating = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.forwards.append(0)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validating = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validating = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.progress.append(fit_progress(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = trainer.logged_metrics.get("train/teacher_feature_loss")
        self.feature_loss += [] if logged is None else [float(logged)]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.handle.remove()


def fit(
    folder: Path, made: BaseTask, module: Any, epochs: int = 4, ckpt_path: Path | None = None, **settings: Any
) -> tuple[Watch, Trainer]:
    watch, saved = Watch(), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    callbacks: list[Any] = [KeyedSeed(3), FrozenBackboneAdapter(SSF(), Additive(), **settings), watch, saved]
    runner = new_tasks.trainer(folder, callbacks, epochs)
    runner.fit(made, module, ckpt_path=ckpt_path)
    return watch, runner


def differing(one: BaseTask, other: BaseTask) -> list[str]:
    return new_tasks.changed(one.state_dict(), other.state_dict())


def test_factors() -> None:
    expected: dict[Schedule, list[float]] = {
        "constant": [1, 1, 1, 1, 1],
        "linear": [1, 0.75, 0.5, 0.25, 0],
        "cosine": [1, 0.8535534, 0.5, 0.1464466, 0],
        "warmup": [0, 1, 1, 1, 1],
    }
    for schedule, factors in expected.items():
        assert [teacher_factor(schedule, at) for at in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(factors, abs=1e-7)
        assert teacher_factor(schedule, 1.5) == teacher_factor(schedule, 1.0)
    assert teacher_factor("warmup", 0.05) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_fit_brings_features_nearer_and_leaves_the_base_alone(kind: str, tmp_path: Path) -> None:
    made = task(kind, feature_weight=30.0)
    before = copy.deepcopy(made.model.state_dict())
    watch, _ = fit(tmp_path, made, data(kind), epochs=6)
    assert watch.feature_loss[-1] < 0.9 * watch.feature_loss[0]
    assert new_tasks.changed(before, made.model.state_dict()) == []
    assert all(parameter.grad is None for parameter in made.model.parameters())


def test_the_schedule_follows_the_steps_of_the_fit(tmp_path: Path) -> None:
    made = task("classification", schedule="linear")
    watch, runner = fit(tmp_path, made, data("classification"), epochs=2)
    assert watch.progress == [step / 6 for step in range(6)]
    assert runner.logged_metrics["train/teacher_factor"].item() == pytest.approx((3 + 2 + 1) / 6 / 3)
    # At the end nothing of the teacher is left in the loss, and of a constant one all.
    batch = new_tasks.batch_of("classification")
    logged: dict[str, Tensor] = {}
    made.log = lambda name, value, **settings: logged.update({name: value})  # type: ignore[method-assign]
    batch["available"][:3, 0] = False
    assert torch.equal(made.training_step(batch, 0), logged["train/loss"])
    assert logged["train/teacher_loss"] > 0
    made.teacher.settings = replace(made.teacher.settings, schedule="constant")
    total = logged["train/loss"] + 0.5 * logged["train/teacher_loss"] + logged["train/teacher_feature_loss"]
    torch.testing.assert_close(made.training_step(batch, 0), total)


def test_a_schedule_needs_an_end(tmp_path: Path) -> None:
    runner = new_tasks.trainer(tmp_path, [FrozenBackboneAdapter()], epochs=-1, max_time={"seconds": 20})
    with pytest.raises(LightningMMError, match="needs a fit of known length"):
        runner.fit(task("classification", schedule="cosine"), data("classification"))


@pytest.mark.parametrize("kind", list(LAYERS))
def test_the_cache_spares_forwards_and_changes_nothing(kind: str, tmp_path: Path) -> None:
    plain, cached = task(kind, cache_mb=0.0), task(kind)
    expected, _ = fit(tmp_path / "plain", plain, data(kind))
    found, _ = fit(tmp_path / "cached", cached, data(kind))
    assert expected.forwards == [BATCHES] * 4
    assert found.forwards[0] == BATCHES
    # One look to compare, and another one at batches that are padded otherwise, where there are such.
    assert sum(found.forwards[1:]) in ((1,) if kind == "segmentation" else (1, 2))
    assert found.forwards[-1] == 0
    assert found.losses == pytest.approx(expected.losses, rel=1e-6, abs=1e-6)
    # Not the weights: one that changes nothing (a bias of attention keys) goes where rounding sends it.
    batch = next(iter(data(kind).train_dataloader()))
    outputs = [made(batch["inputs"], batch["available"]) for made in (plain, cached)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    assert cached.teacher.cache is None, "freed at the end of the fit"


def test_features_of_padded_sequences_are_used_again_only_at_the_same_length(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"layers": ["blocks.*.0", "fusion.0"]}
    expected, _ = fit(tmp_path / "plain", task("sentiment", cache_mb=0.0, **settings), data("sentiment"))
    found, _ = fit(tmp_path / "cached", task("sentiment", **settings), data("sentiment"))
    assert found.losses == pytest.approx(expected.losses, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "augment", "fill", "reason"),
    [
        ({}, Dihedral(), None, "the training data are augmented"),
        ({"cache_mb": 0.0}, None, None, "distillation.cache_mb is 0"),
        ({"cache_mb": 0.01}, None, None, "an epoch takes .* MB, more than distillation.cache_mb 0.01"),
        ({}, None, Learned({"rgb": 3}), "the fill is trained"),
    ],
)
def test_why_it_is_not_cached_is_told(
    settings: dict[str, Any], augment: Any, fill: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        watch, _ = fit(tmp_path, task("segmentation", **settings), data("segmentation", augment), 2, fill=fill)
    assert watch.forwards == [BATCHES] * 2
    (line,) = [record.message for record in caplog.records if record.message.startswith("teacher:")]
    assert re.fullmatch(f"teacher: one more forward in every step, because {reason}.*", line)


def test_other_loaders_and_single_epochs_are_not_cached(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Other(LightningDataModule):
        train_dataloader = data("classification").train_dataloader
        val_dataloader = data("classification").val_dataloader

    with caplog.at_level(logging.INFO):
        watch, _ = fit(tmp_path / "other", task("classification"), Other(), 2)
        assert "only a data module with `augment` tells" in caplog.text
        assert watch.forwards == [BATCHES] * 2
        fit(tmp_path / "one", task("classification"), data("classification"), 1)
    assert "no epoch follows that could use its outputs" in caplog.text


def test_samples_that_are_drawn_anew_are_not_cached(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Drawn(Scenes):
        def draw_sample(self, index: int, rng: Any) -> dict[str, Any]:
            return self[index]

    module = data("segmentation")
    module.dataset = lambda split: Drawn(split, size=16, train_length=12, val_length=4)
    with caplog.at_level(logging.INFO):
        watch, _ = fit(tmp_path, task("segmentation"), module, 2)
    assert watch.forwards == [BATCHES] * 2
    assert "the training data are drawn anew in every epoch" in caplog.text


@pytest.mark.parametrize("cache_mb", [0.0, 512.0])
def test_resumed_run_equals_the_uninterrupted_one(cache_mb: float, tmp_path: Path) -> None:
    made = [task("classification", schedule="cosine", cache_mb=cache_mb) for _ in range(2)]
    whole, runner = fit(tmp_path, made[0], data("classification"))
    torch.manual_seed(77)  # another process has another random state
    resumed, again = fit(tmp_path / "resumed", made[1], data("classification"), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert resumed.progress == whole.progress[BATCHES:]
    assert resumed.forwards[0] == BATCHES, "the cache is filled again"
    assert again.logged_metrics["train/teacher_factor"] == runner.logged_metrics["train/teacher_factor"]
    if cache_mb == 0:
        assert resumed.losses == whole.losses[BATCHES:]
        assert differing(*made) == []
    assert resumed.losses == pytest.approx(whole.losses[BATCHES:], rel=1e-6, abs=1e-6)


def test_checkpoints_and_copies_hold_nothing_of_the_cache(tmp_path: Path) -> None:
    class Copies(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            teacher: Any = pl_module.teacher
            assert len(teacher.cache.entries) == 12
            assert copy.deepcopy(teacher).cache is None
            assert pickle.loads(pickle.dumps(teacher)).cache is None

    made = task("classification")
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    new_tasks.trainer(tmp_path, [FrozenBackboneAdapter(), Copies(), saved]).fit(made, data("classification"))
    checkpoint = read_checkpoint(tmp_path / "epoch=1.ckpt")
    assert set(checkpoint["state_dict"]) == {key for key in made.state_dict() if key.startswith("adapter.")}
    assert checkpoint["hyper_parameters"]["distillation"]["layers"] == LAYERS["classification"]
    assert checkpoint["hyper_parameters"]["distillation"]["schedule"] == "constant"


@pytest.mark.slow
def test_settings_of_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data("mosi", tmp_path / "data")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    teacher = {
        "weight": 1.0,
        "layers": ["norm", "fusion.*"],
        "cache_mb": 64,
        "feature_weight": 0.1,
        "schedule": "warmup",
    }
    overlay = tmp_path / "teacher.yaml"
    overlay.write_text(yaml.safe_dump({"model": {"init_args": {"distillation": teacher, "base_ckpt": None}}}))
    files = [REPOSITORY / "experiments" / "mosi" / name for name in ("base.yaml", "ssf.yaml")]
    command = ["fit", *(part for path in [*files, overlay] for part in ("-c", str(path)))]
    few = {"fast_dev_run": 2, "accelerator": "cpu", "enable_progress_bar": "false", "enable_model_summary": "false"}
    assert main([*command, *(part for key, value in few.items() for part in (f"--trainer.{key}", str(value)))]) == 0
