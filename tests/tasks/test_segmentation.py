"""The segmentation task: metrics agree everywhere, absence is handled in the forward, mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Constant
from lightning_mm.tasks import BaseTask, SemanticSegmentationTask
from lightning_mm.testing import FakeSegmentation, assert_missing_invariant

CHANNELS = {"rgb": 3, "depth": 1}
NAMES = Modalities(CHANNELS)


class Pixels(nn.Module):
    """One linear layer per modality and pixel, summed; does not know what is available."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.channels, self.num_classes = dict(CHANNELS), num_classes
        self.parts = nn.ModuleDict({name: nn.Conv2d(count, num_classes, 1) for name, count in CHANNELS.items()})

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return sum((self.parts[name](inputs[name]) for name in self.channels), torch.zeros(()))


class MaskedPixels(Pixels):
    """The same, told what is available."""

    def forward(self, inputs: dict[str, Tensor], available: Tensor) -> Tensor:  # type: ignore[override]
        self.seen = available
        return super().forward(inputs)


def build(num_classes: int = 3, model: nn.Module | None = None, **settings: Any) -> SemanticSegmentationTask:
    torch.manual_seed(0)
    return SemanticSegmentationTask(model or Pixels(num_classes), list(CHANNELS), num_classes, **settings)


def collate(rows: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    batch = default_collate([sample for _, sample in rows])
    index = torch.tensor([position for position, _ in rows])
    available = torch.stack([NAMES.masks()[position % 3] for position, _ in rows])
    return {**batch, "available": available, "observed": torch.ones_like(available), "index": index}


def loader(split: str = "train", length: int = 10, num_classes: int = 3) -> DataLoader[Any]:
    data = FakeSegmentation(split, CHANNELS, num_classes, size=8, length=length)
    return DataLoader([(i, data[i]) for i in range(length)], batch_size=4, collate_fn=collate)  # type: ignore[arg-type]


def trainer(**settings: Any) -> Trainer:
    plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{**plain, **settings})


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("ignore_index", [255, 0])
def test_logged_metrics_are_those_of_the_sample_statistics(num_classes: int, ignore_index: int) -> None:
    task = build(num_classes, ignore_index=ignore_index)
    data = loader("test", num_classes=num_classes)
    (logged,) = trainer().test(task, data, verbose=False)
    statistics = [task.sample_statistics(task(b["inputs"], b["available"]), b["target"]) for b in data]
    confusion = torch.cat([part["confusion"] for part in statistics])
    assert confusion.shape == (10, num_classes, num_classes)
    metrics = task.metrics_from({"confusion": confusion})
    assert set(metrics) == set(task.metric_directions)
    assert {f"test/{name}" for name in metrics} | {"test/loss"} == set(logged)
    for name, value in metrics.items():
        assert logged[f"test/{name}"] == pytest.approx(value, rel=1e-5, nan_ok=True), name
    assert task.primary_metric == ("iou" if num_classes == 2 else "miou")


@pytest.mark.parametrize("ignore_index", [255, 0])
def test_an_absent_class_has_no_iou_or_zero(ignore_index: int) -> None:
    found = {}
    for absent in ("skip", "zero"):
        task = build(5, absent_classes=absent, ignore_index=ignore_index)
        with torch.no_grad():
            task.model.parts["rgb"].bias[4] = -1e6  # type: ignore[union-attr,index]
        data = loader("test", num_classes=4)
        (logged,) = trainer().test(task, data, verbose=False)
        statistics = [task.sample_statistics(task(b["inputs"], b["available"]), b["target"]) for b in data]
        metrics = task.metrics_from({"confusion": torch.cat([part["confusion"] for part in statistics])})
        for name, value in metrics.items():
            assert logged[f"test/{name}"] == pytest.approx(value, rel=1e-5, nan_ok=True), name
        found[absent] = metrics
    skipped, zero = found["skip"], found["zero"]
    assert skipped["iou_4"] != skipped["iou_4"]
    assert zero["iou_4"] == 0
    counted = 4 if ignore_index == 255 else 3
    for mean in ("miou", "macc", "mf1"):
        assert zero[mean] == pytest.approx(skipped[mean] * counted / (counted + 1))
    assert zero["pixel_accuracy"] == skipped["pixel_accuracy"]


@pytest.mark.parametrize("loss", ["ce", "dice", "ce+dice", "ohem", "rare+dice"])
def test_fit_learns_the_signal(loss: Any) -> None:
    task = build(loss=loss, optimizer=lambda p: torch.optim.AdamW(p, lr=0.1))
    (before,) = trainer().validate(task, loader(), verbose=False)
    runner = trainer(max_epochs=8)
    runner.fit(task, loader(), loader("val"))
    metrics = {"val/miou", "val/macc", "val/mf1", "val/pixel_accuracy", "val/iou_0"}
    assert {"train/loss", "val/loss"} | metrics <= set(runner.logged_metrics)
    assert runner.logged_metrics["val/miou"] > before["val/miou"] + 0.2


class Margin(SemanticSegmentationTask):
    """A task of a user with a loss of its own."""

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        return super().loss(outputs, target) + 7.0


def test_a_loss_of_a_subclass_is_trained() -> None:
    task, given = Margin(Pixels(), list(CHANNELS), 3), next(iter(loader()))
    outputs = task(given["inputs"], given["available"])
    assert torch.equal(task.training_loss(outputs, given["target"]), task.loss(outputs, given["target"]))


def test_loss_of_an_epoch_counts_every_sample_once() -> None:
    task, data = build(), loader("test")
    (logged,) = trainer().test(task, data, verbose=False)
    batches = [(len(b["index"]), task.loss(task(b["inputs"], b["available"]), b["target"])) for b in data]
    assert logged["test/loss"] == pytest.approx(sum(n * loss.item() for n, loss in batches) / 10, rel=1e-5)


def test_nothing_in_absent_places_matters() -> None:
    batch = next(iter(loader()))
    assert_missing_invariant(build(), NAMES, batch["inputs"])
    assert_missing_invariant(build(model=MaskedPixels()), NAMES, batch["inputs"])


def test_the_fill_stands_in_absent_places_and_inputs_are_not_changed() -> None:
    task = build(fill=Constant({"depth": 2.0}))
    inputs = {name: torch.full((2, count, 4, 4), float("nan")) for name, count in CHANNELS.items()}
    inputs["rgb"] = torch.ones(2, 3, 4, 4)
    outputs = task(inputs, NAMES.mask("rgb").expand(2, 2))
    expected = task.model({"rgb": inputs["rgb"], "depth": torch.full((2, 1, 4, 4), 2.0)})
    assert torch.equal(outputs, expected)
    assert inputs["depth"].isnan().all()


def test_the_mask_is_handed_to_networks_that_take_it() -> None:
    task = build(model=MaskedPixels())
    batch = next(iter(loader()))
    task(batch["inputs"], batch["available"])
    assert torch.equal(task.model.seen, batch["available"])  # type: ignore[arg-type]


def test_further_inputs_are_left_alone_and_lacking_ones_named() -> None:
    task = build()
    inputs = {name: torch.zeros(1, count, 4, 4) for name, count in CHANNELS.items()}
    assert torch.equal(task({**inputs, "radar": torch.ones(1)}), task(inputs))
    with pytest.raises(LightningMMError, match=r"inputs lack \['depth'\]; expected \['rgb', 'depth'\], got \['rgb'\]"):
        task({"rgb": inputs["rgb"]})
    with pytest.raises(LightningMMError, match=r"available: expected Bool\[B, 2\]"):
        task(inputs, torch.ones(1, 3, dtype=torch.bool))


def test_predictions() -> None:
    outputs = trainer().predict(build(), loader())
    assert outputs is not None
    assert torch.cat([part["index"] for part in outputs]).tolist() == list(range(10))
    assert torch.cat([part["prediction"] for part in outputs]).shape == (10, 8, 8)
    assert torch.cat([part["available"] for part in outputs]).shape == (10, 2)


@pytest.mark.parametrize("wrong", [3, -1, 254])
def test_labels_out_of_range_are_named(wrong: int) -> None:
    batch = next(iter(loader()))
    batch["target"][0, 0, 0] = wrong
    task = build()
    message = rf"labels out of range: \[{wrong}\]; expected 0 to 2, or 255"
    with pytest.raises(LightningMMError, match=message):
        trainer(max_epochs=1).fit(task, DataLoader([batch], batch_size=None), loader("val"))
    with pytest.raises(LightningMMError, match=message):
        task.sample_statistics(task(batch["inputs"]), batch["target"])
    with pytest.raises(LightningMMError, match=r"expected Int64\[B, H, W\].*float32"):
        task.check_target(batch["target"].float())


def test_only_what_wants_a_gradient_is_optimised_and_tables_of_adapters_do_not_decay() -> None:
    task = build(optimizer=lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5))
    task.model.parts["depth"].requires_grad_(False)  # type: ignore[union-attr,index]
    task.adapter = nn.ParameterDict({"table": nn.Parameter(torch.ones(2, 3))})
    decayed, plain = task.configure_optimizers().param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 3, 1, 1)]
    assert sorted(tuple(p.shape) for p in plain["params"]) == [(2, 3), (3,)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    task.requires_grad_(False)
    with pytest.raises(LightningMMError, match="nothing to train: every parameter is frozen"):
        task.configure_optimizers()


def test_schedulers() -> None:
    step = build(lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1), lr_interval="step")
    assert step.configure_optimizers()["lr_scheduler"]["interval"] == "step"
    plateau = build(lr_scheduler=lambda o: ReduceLROnPlateau(o, monitor="val/miou", mode="max"))
    assert plateau.configure_optimizers()["lr_scheduler"]["monitor"] == "val/miou"
    trainer(max_epochs=1).fit(plateau, loader(), loader("val"))


def test_base_checkpoint(tmp_path: Path) -> None:
    base, runner = build(), trainer(max_epochs=1)
    runner.fit(base, loader(), loader("val"))
    runner.save_checkpoint(tmp_path / "base.ckpt")
    torch.save(base.model.state_dict(), tmp_path / "plain.pt")
    for name in ("base.ckpt", "plain.pt"):
        task = build(base_ckpt=str(tmp_path / name))
        for key, value in base.model.state_dict().items():
            assert torch.equal(task.model.state_dict()[key], value)


def test_wrong_base_checkpoints_are_named_and_change_nothing(tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match=r"nowhere.ckpt does not exist"):
        build(base_ckpt=str(tmp_path / "nowhere.ckpt"))
    (tmp_path / "broken.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    for name in ("broken.ckpt", "empty.ckpt"):
        with pytest.raises(LightningMMError, match=r"cannot be read as tensors"):
            build(base_ckpt=str(tmp_path / name))
    torch.save({"state_dict": {f"model.{k}": v for k, v in Pixels(4).state_dict().items()}}, tmp_path / "four.ckpt")
    model = Pixels()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(LightningMMError, match=r"it has other shapes: .*\(4, 3, 1, 1\) instead of \(3, 3, 1, 1\)"):
        build(model=model, base_ckpt=str(tmp_path / "four.ckpt"))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    torch.save({"state_dict": {"model.other": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(LightningMMError, match=r"it lacks parts.rgb.weight, .* and 1 more; has unknown other"):
        build(base_ckpt=str(tmp_path / "other.ckpt"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 4, "model": Pixels(3)}, "the task has num_classes 4, the network 3"),
        ({"class_names": ["a", "b"]}, r"num_classes is 3: .* got \['a', 'b'\]"),
        ({"class_weights": [1.0]}, "class_weights: expected 3 numbers, got 1"),
        ({"absent_classes": "none"}, r"absent_classes must be one of \['skip', 'zero'\], got 'none'"),
        ({"loss": "hinge"}, r"loss must be one of \['ce', 'dice', 'ce\+dice', 'ohem', 'rare\+dice'\], got 'hinge'"),
    ],
)
@pytest.mark.wrong_types
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build(**settings)


def test_network_and_task_must_agree_on_the_modalities() -> None:
    with pytest.raises(LightningMMError, match=r"the task lists \['depth', 'rgb'\], .* channels \['rgb', 'depth'\]"):
        SemanticSegmentationTask(Pixels(), ["depth", "rgb"], 3)


def test_a_config_builds_the_task() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments((BaseTask,), "model")
    network = {"channels": {"rgb": 3, "depth": 1}, "num_classes": 3, "encoder": "mit_b0", "encoder_depth": 3}
    init_args = {
        "model": {
            "class_path": "lightning_mm.models.MultiEncoderSegmenter",
            "init_args": {**network, "fusion": "max", "decoder_channels": [8, 8, 8]},
        },
        "modalities": ["rgb", "depth"],
        "num_classes": 3,
        "fill": {"class_path": "lightning_mm.missing.Noise", "init_args": {"std": 0.5}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.25}},
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 3}},
    }
    config = {"class_path": "lightning_mm.tasks.SemanticSegmentationTask", "init_args": init_args}
    task = parser.instantiate(parser.parse_object({"model": config})).model
    assert isinstance(task, LightningModule)
    configured = task.configure_optimizers()
    assert isinstance(configured["optimizer"], torch.optim.SGD)
    assert isinstance(configured["lr_scheduler"]["scheduler"], torch.optim.lr_scheduler.CosineAnnealingLR)
    assert task.fill.std == 0.5
