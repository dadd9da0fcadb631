"""Auxiliary losses per encoder: equal to a hand computation, only in training, and no part of the network."""

from __future__ import annotations

import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_mm import Modalities
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.errors import LightningMMError
from lightning_mm.models import MultiEncoderSegmenter
from lightning_mm.sweep import sweep
from lightning_mm.tasks import BaseTask, ClassificationTask, SemanticSegmentationTask, SentimentTask
from lightning_mm.tasks.auxiliary import _HEARD
from lightning_mm.tasks.checkpoints import load_weights
from tests.support.ranks import run_ranks

WIDTHS = {"audio": 4, "video": 3}
NAMES = Modalities(WIDTHS)


class Encoder(nn.Linear):
    """Puts out [B, 5] and says so."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 5)
        self.out_channels = 5

    def forward(self, value: Tensor) -> Tensor:
        return super().forward(value).tanh()


class Late(nn.Module):
    """Encoders, their sum, a head; does not know what is available."""

    def __init__(self, num_outputs: int = 3) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: Encoder(width) for name, width in WIDTHS.items()})
        self.head = nn.Linear(5, num_outputs)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(torch.stack([self.encoders[name](inputs[name]) for name in WIDTHS]).sum(0))


class Pixels(nn.Module):
    """Convolutions as encoders, which put out one map each."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Conv2d(width, 5, 2, 2) for name, width in WIDTHS.items()})
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        maps = torch.stack([self.encoders[name](inputs[name]) for name in WIDTHS]).sum(0)
        return F.interpolate(self.head(maps), scale_factor=2)


def build(model: nn.Module | None = None, auxiliary_weight: float = 0.5, **settings: Any) -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(model or Late(), list(WIDTHS), 3, auxiliary_weight=auxiliary_weight, **settings)


def batch_of(available: Tensor, poison: float = float("nan")) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(len(available), width, generator=generator) for name, width in WIDTHS.items()}
    for column, name in enumerate(WIDTHS):
        inputs[name][~available[:, column]] = poison
    target = torch.arange(len(available)) % 3
    index = torch.arange(len(available))
    observed = torch.ones_like(available)
    return {"inputs": inputs, "available": available, "observed": observed, "target": target, "index": index}


def mixed() -> dict[str, Any]:
    return batch_of(NAMES.masks()[torch.arange(7) % 3])


def loader(batch: dict[str, Any] | None = None) -> DataLoader[Any]:
    return DataLoader([batch or mixed()], batch_size=None)  # type: ignore[arg-type]


def trainer(**settings: Any) -> Trainer:
    plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{**plain, **settings})


def step(task: BaseTask, batch: dict[str, Any]) -> Tensor:
    task.log = lambda *args, **settings: None  # type: ignore[method-assign]
    return task.training_step(batch, 0)


def test_the_loss_of_a_step_is_that_of_a_hand_computation() -> None:
    task, batch = build(), mixed()
    model, heads = task.model, task.auxiliary.heads  # type: ignore[union-attr]
    terms = []
    for column, name in enumerate(WIDTHS):
        losses = [
            F.cross_entropy(heads[name](model.encoders[name](batch["inputs"][name][row])), batch["target"][row])  # type: ignore[index,union-attr]
            for row in range(7)
            if batch["available"][row, column]
        ]
        assert 0 < len(losses) < 7
        terms.append(sum(losses) / len(losses))
    own = F.cross_entropy(task(batch["inputs"], batch["available"]), batch["target"])
    torch.testing.assert_close(step(task, batch), own + 0.5 * (terms[0] + terms[1]) / 2)


def test_the_segmentation_head_sees_the_last_map_and_is_brought_to_the_size_of_the_target() -> None:
    torch.manual_seed(0)
    task = SemanticSegmentationTask(Pixels(), list(WIDTHS), 3, auxiliary_weight=0.5)
    batch = batch_of(NAMES.masks(["audio", "audio+video"]))
    batch["inputs"] = {name: value[:, :, None, None].expand(-1, -1, 4, 4) for name, value in batch["inputs"].items()}
    batch["target"] = torch.randint(3, (2, 4, 4))
    terms = []
    for name, rows in {"audio": [0, 1], "video": [1]}.items():
        logits = task.auxiliary.heads[name](task.model.encoders[name](batch["inputs"][name][rows]))  # type: ignore[index,union-attr]
        terms.append(F.cross_entropy(F.interpolate(logits, (4, 4), mode="bilinear"), batch["target"][rows]))
    own = F.cross_entropy(task(batch["inputs"], batch["available"]), batch["target"])
    torch.testing.assert_close(step(task, batch), own + 0.5 * sum(terms) / 2)


def test_the_segmenter_of_the_package_and_sentiment_are_served() -> None:
    network = MultiEncoderSegmenter(dict(WIDTHS), 3, encoder="mit_b0", encoder_depth=3, decoder_channels=[8, 8, 8])
    task = SemanticSegmentationTask(network, list(WIDTHS), 3, auxiliary_weight=0.5)
    inputs = {name: torch.randn(2, width, 32, 32) for name, width in WIDTHS.items()}
    only_audio = NAMES.mask("audio").expand(2, 2)
    batch = {"inputs": inputs, "available": only_audio, "target": torch.randint(3, (2, 32, 32))}
    step(task, batch).backward()
    gradients = [parameter.grad for parameter in task.model.encoders["video"].parameters()]  # type: ignore[index,union-attr]
    assert not any(gradient.any() for gradient in gradients if gradient is not None)
    for labels, target in {"binary": torch.arange(7) % 2, "regression": torch.linspace(-3, 3, 7)}.items():
        sentiment = SentimentTask(Late(1), list(WIDTHS), labels, auxiliary_weight=0.5)  # type: ignore[arg-type]
        assert step(sentiment, {**mixed(), "target": target}).isfinite()


def test_the_encoder_of_a_modality_that_is_absent_everywhere_gets_no_gradient() -> None:
    task = build()
    step(task, batch_of(NAMES.mask("audio").expand(4, 2))).backward()
    # The network itself has the zero-filled video in its sum; what the auxiliary loss adds is nothing.
    plain = build(auxiliary_weight=0.0)
    plain.load_state_dict({key: value for key, value in task.state_dict().items() if key.startswith("model.")})
    step(plain, batch_of(NAMES.mask("audio").expand(4, 2))).backward()
    for name, changed in {"video": False, "audio": True}.items():
        own = [parameter.grad for parameter in task.model.encoders[name].parameters()]  # type: ignore[index,union-attr]
        theirs = [parameter.grad for parameter in plain.model.encoders[name].parameters()]  # type: ignore[index,union-attr]
        assert all(not torch.equal(a, b) if changed else torch.equal(a, b) for a, b in zip(own, theirs))  # type: ignore[arg-type]
    heads: Any = task.auxiliary.heads  # type: ignore[union-attr]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in heads["video"].parameters())
    assert heads["audio"].weight.grad.any()


def test_nothing_in_absent_places_matters() -> None:
    found = []
    for poison in (0.0, float("nan"), 1e9):
        task = build()
        loss = step(task, batch_of(NAMES.masks()[torch.arange(7) % 3], poison))
        loss.backward()
        found.append([loss, *(parameter.grad for parameter in task.parameters())])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))  # type: ignore[arg-type]


def test_they_are_off_in_validation_and_nothing_is_kept() -> None:
    task, batch = build(), mixed()
    (logged,) = trainer().validate(task, loader(batch), verbose=False)
    own = F.cross_entropy(task(batch["inputs"], batch["available"]), batch["target"])
    assert logged["val/loss"] == pytest.approx(own.item())
    step(task, batch)
    assert _HEARD.get() is None
    broken = {**batch, "target": torch.full((7,), 9)}
    with pytest.raises(LightningMMError, match="out of range"):
        step(task, broken)
    assert _HEARD.get() is None


def test_fit_trains_the_heads_and_logs_their_loss_apart() -> None:
    task = build()
    before = deepcopy(task.state_dict())
    runner = trainer(max_epochs=2)
    runner.fit(task, loader(), loader())
    assert {"train/loss", "train/auxiliary_loss", "val/loss"} <= set(runner.logged_metrics)
    assert all(not torch.equal(before[key], value) for key, value in task.state_dict().items())


def test_copies_have_heads_of_their_own() -> None:
    task = build()
    for copy in (deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert torch.equal(step(copy, mixed()), step(task, mixed()))
        assert copy.auxiliary.taps["audio"] in copy.model.encoders["audio"]._forward_hooks.values()


def test_the_network_loads_where_there_are_no_heads(tmp_path: Path) -> None:
    task, runner = build(), trainer(max_epochs=1)
    runner.fit(task, loader(), loader())
    runner.save_checkpoint(tmp_path / "a.ckpt")
    names = set(torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"])
    assert {name for name in names if not name.startswith("model.")} == {
        f"auxiliary.heads.{name}.{part}" for name in WIDTHS for part in ("weight", "bias")
    }
    assert set(Late().state_dict()) == {name.removeprefix("model.") for name in names if name.startswith("model.")}
    base = build(auxiliary_weight=0.0, base_ckpt=str(tmp_path / "a.ckpt"))
    loaded, same = build(auxiliary_weight=0.0), build()
    load_weights(loaded, tmp_path / "a.ckpt")
    load_weights(same, tmp_path / "a.ckpt")
    batch = mixed()
    for other in (base, loaded, same):
        assert torch.equal(other(batch["inputs"], batch["available"]), task(batch["inputs"], batch["available"]))
    runner.test(build(auxiliary_weight=0.0), loader(), ckpt_path=str(tmp_path / "a.ckpt"), verbose=False)
    torch.save({"state_dict": {k: v for k, v in task.state_dict().items() if "heads" not in k}}, tmp_path / "b.ckpt")
    with pytest.raises(LightningMMError, match=r"lacks auxiliary.heads.audio.weight"):
        load_weights(build(), tmp_path / "b.ckpt")


@pytest.mark.filterwarnings("ignore:.*eval mode")
def test_under_an_adapter_they_are_idle_and_the_sweep_runs(tmp_path: Path) -> None:
    task, runner = build(), trainer(max_epochs=1, callbacks=[FrozenBackboneAdapter()])
    before = {key: value.clone() for key, value in task.state_dict().items()}
    runner.fit(task, loader(), loader())
    assert "train/auxiliary_loss" not in runner.logged_metrics
    assert all(torch.equal(task.state_dict()[key], value) for key, value in before.items())
    # without NaN, as the sweep shows all that was observed
    result = sweep(task, loader(batch_of(mixed()["available"], poison=0.0)), trainer=trainer(), bootstrap=0)
    assert result.methods == ["zero_fill", "adapted"]
    runner.save_checkpoint(tmp_path / "adapter.ckpt")
    again = build()
    FrozenBackboneAdapter().attach(again, mixed(), "test")
    load_weights(again, tmp_path / "adapter.ckpt")


def pixel_task(**settings: Any) -> SemanticSegmentationTask:
    torch.manual_seed(0)
    return SemanticSegmentationTask(Pixels(), list(WIDTHS), 3, auxiliary_weight=0.5, **settings)


def unequal(dense: bool, rows: slice) -> dict[str, Any]:
    """Rows of a batch whose halves have other numbers of each modality, of which the second half lacks one."""
    available = torch.tensor([[1, 1], [1, 1], [0, 1], [1, 0], [1, 0], [1, 0], [1, 0], [1, 0]]).bool()
    generator = torch.Generator().manual_seed(1)
    size = (4, 4) if dense else ()
    inputs = {name: torch.randn(8, width, *size, generator=generator) for name, width in WIDTHS.items()}
    target = torch.randint(3, (8, *size), generator=generator)
    if dense:
        target[:2] = target[6, :2] = 255
    batch = {"inputs": inputs, "available": available, "target": target}
    return {key: take(value, rows) for key, value in batch.items()}


def take(value: Any, rows: slice) -> Any:
    return {name: one[rows] for name, one in value.items()} if isinstance(value, dict) else value[rows]


TASKS = {
    "classes": lambda: build(),
    "weighted classes": lambda: build(class_weights=[0.2, 1.0, 3.0]),
    "pixels": lambda: pixel_task(ignore_index=255),
}


def gradients(name: str, rows: slice) -> dict[str, Tensor]:
    task = TASKS[name]()
    step(task, unequal(name == "pixels", rows)).backward()
    return {key: one.grad for key, one in task.named_parameters() if one.grad is not None}


def gradients_of_half(rank: int, folder: Path) -> None:
    found = {}
    for name in TASKS:
        found[name] = gradients(name, slice(4 * rank, 4 * rank + 4))
        for gradient in found[name].values():  # what DistributedDataParallel does
            torch.distributed.all_reduce(gradient)
            gradient /= 2
    if rank == 0:
        torch.save(found, folder / "gradients.pt")


@pytest.mark.slow
def test_two_ranks_with_unequal_rows_have_the_gradients_of_one(tmp_path: Path) -> None:
    run_ranks(gradients_of_half, tmp_path, start="fork")
    for name, found in torch.load(tmp_path / "gradients.pt", weights_only=True).items():
        expected = gradients(name, slice(8))
        assert set(found) == set(expected)
        assert sum(key.startswith("auxiliary.") for key in found) == 4
        for key, gradient in expected.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-6)


def without(model: nn.Module, part: str) -> nn.Module:
    delattr(model, part)
    return model


class Lists(Late):
    """Encoders whose outputs are wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders["audio"].forward = lambda value: [Encoder.forward(self.encoders["audio"], value)]  # type: ignore[arg-type,method-assign]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(self.encoders["audio"](inputs["audio"])[0])


def test_networks_without_such_encoders_are_named() -> None:
    with pytest.raises(LightningMMError, match=r"needs a network with `encoders`.* Late has none; name them so"):
        build(without(Late(), "encoders"))
    model = Late()
    del model.encoders["video"]
    with pytest.raises(LightningMMError, match=r"encoders lacks \['video'\], it has \['audio'\]"):
        build(model)
    model = Late()
    model.encoders["video"] = nn.Linear(3, 5)
    with pytest.raises(LightningMMError, match=r"encoder of 'video' \(Linear\) should have `out_channels`.* got None"):
        build(model)
    model = Late()
    model.encoders["video"] = model.encoders["audio"]
    with pytest.raises(LightningMMError, match="one module under several names"):
        build(model)
    with pytest.raises(LightningMMError, match="BaseTask has no auxiliary losses"):
        BaseTask.configure_auxiliary(BaseTask.__new__(BaseTask))


def test_outputs_of_another_form_are_named() -> None:
    with pytest.raises(LightningMMError, match=r"encoder of 'audio' should return \[7, 5\], .* got a list"):
        step(build(Lists()), mixed())
    model = Late()
    model.encoders["video"].out_channels = 6  # type: ignore[union-attr,assignment]
    with pytest.raises(LightningMMError, match=r"encoder of 'video' should return \[7, 6\], .* got \(7, 5\)"):
        step(build(model), mixed())
    task = build()
    with task.auxiliary.listening(), pytest.raises(LightningMMError, match="did not run in the forward"):  # type: ignore[union-attr]
        task.auxiliary(mixed()["available"], mixed()["target"], task.loss)  # type: ignore[misc]
