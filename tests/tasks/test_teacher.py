"""The frozen base as teacher of its adapter: equal to a hand computation, one more forward, the base learns nothing."""

from __future__ import annotations

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
from lightning_mm.tasks import BaseTask, ClassificationTask, Distillation, SemanticSegmentationTask, SentimentTask
from lightning_mm.tasks.teacher.teacher import distillation_loss

WIDTHS = {"audio": 4, "video": 3}
NAMES = Modalities(WIDTHS)


class Late(nn.Module):
    """Layers per modality, their sum and a head; takes no `available`."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.calls = 0
        self.parts = nn.ModuleDict({name: nn.Linear(width, 5) for name, width in WIDTHS.items()})
        self.head = nn.Linear(5, outputs)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        return self.head(torch.stack([self.parts[name](inputs[name]) for name in WIDTHS]).sum(0).tanh())


class Told(Late):
    """The same, told what is available."""

    def forward(self, inputs: dict[str, Tensor], available: Tensor | None = None) -> Tensor:  # type: ignore[override]
        assert available is not None
        return super().forward(inputs)


def build(model: nn.Module | None = None, weight: float = 0.5, **settings: Any) -> ClassificationTask:
    """A task with a teacher; ``settings`` are those of the distillation."""
    torch.manual_seed(0)
    return ClassificationTask(model or Late(), list(WIDTHS), 3, distillation=Distillation(weight, **settings))


def mixed() -> dict[str, Any]:
    """Seven samples in all combinations; the third never observed its video."""
    generator = torch.Generator().manual_seed(1)
    available = NAMES.masks()[torch.arange(7) % 3]
    observed = torch.ones_like(available)
    available[2] = observed[2] = NAMES.mask("audio")
    inputs = {name: torch.randn(7, width, generator=generator) for name, width in WIDTHS.items()}
    inputs["video"][2] = float("nan")
    target = torch.arange(7) % 3
    return {"inputs": inputs, "available": available, "observed": observed, "target": target, "index": torch.arange(7)}


def adapted(task: BaseTask, noise: float = 0.3, batch: dict[str, Any] | None = None) -> BaseTask:
    adapter = FrozenBackboneAdapter().attach(task, batch or mixed(), "fit")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.banks.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return task


def step(task: BaseTask, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    logged: dict[str, Tensor] = {}
    task.log = lambda name, value, **settings: logged.update({name: value})  # type: ignore[method-assign]
    return task.training_step(batch, 0), logged


def loader() -> DataLoader[Any]:
    return DataLoader([mixed()], batch_size=None)  # type: ignore[arg-type]


def trainer(**settings: Any) -> Trainer:
    plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{**plain, **settings})


def test_divergence_against_a_slow_loop() -> None:
    student, teacher = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    total = 0.0
    for row in range(3):
        for place in range(2):
            p, q = ((logits[row, :, place] / 3).softmax(0) for logits in (teacher, student))
            total += float((p * (p / q).log()).sum())
    assert distillation_loss(student, teacher, 3.0).item() == pytest.approx(9 * total / 6, rel=1e-5)
    assert distillation_loss(student, student).item() == 0
    assert distillation_loss(student + 5, student).item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_gets_no_gradient_and_shapes_are_checked() -> None:
    student, teacher = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    distillation_loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None
    with pytest.raises(LightningMMError, match=r"expected logits \[B, C, ...\] .* got \(2, 3\) and \(2, 4\)"):
        distillation_loss(student, torch.zeros(2, 4))


@pytest.mark.parametrize("network", [Late, Told])
def test_the_loss_of_a_step_is_that_of_a_hand_computation(network: type[Late]) -> None:
    batch = mixed()
    base = build(network(), weight=0.0)
    task = adapted(build(network(), temperature=3.0))
    base.model.load_state_dict(task.model.state_dict())
    with torch.no_grad():
        teacher = base(batch["inputs"], batch["observed"])
    student = task(batch["inputs"], batch["available"])
    own, distance = F.cross_entropy(student, batch["target"]), distillation_loss(student, teacher, 3.0)
    assert distance > 0
    before = task.model.calls
    loss, logged = step(task, batch)
    torch.testing.assert_close(loss, own + 0.5 * distance)
    torch.testing.assert_close(logged["train/loss"], own)
    torch.testing.assert_close(logged["train/teacher_loss"], distance)
    assert task.model.calls == before + 2  # type: ignore[operator]
    loss.backward()
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert all(parameter.grad is not None for parameter in task.adapter.parameters())  # type: ignore[union-attr]


def test_full_rows_have_no_distance_at_the_start_and_absent_ones_have() -> None:
    # An adapter at its start is the zero-fill baseline: the teacher itself where nothing is missing.
    task, batch = build(), mixed()
    FrozenBackboneAdapter().attach(task, batch, "fit")
    full = {**batch, "available": batch["observed"]}
    assert step(task, full)[1]["train/teacher_loss"].item() == 0
    assert step(task, batch)[1]["train/teacher_loss"].item() > 0


def test_full_rows_never_have_any_as_the_full_combination_is_the_base() -> None:
    task, batch = adapted(build()), mixed()
    rows = batch["observed"].all(1)
    kept = {name: value[rows] for name, value in batch.items() if name != "inputs"}
    full = {**kept, "inputs": {name: value[rows] for name, value in batch["inputs"].items()}}
    full["available"] = full["observed"]
    assert step(task, full)[1]["train/teacher_loss"].item() == 0


@pytest.mark.filterwarnings("ignore:.*eval mode")
def test_fit_with_a_teacher_moves_the_adapter_alone() -> None:
    task, runner = build(), trainer(max_epochs=2, callbacks=[FrozenBackboneAdapter()])
    before = {key: value.clone() for key, value in task.state_dict().items()}
    runner.fit(task, loader(), loader())
    assert {"train/loss", "train/teacher_loss", "val/loss"} <= set(runner.logged_metrics)
    assert "val/teacher_loss" not in runner.logged_metrics
    assert all(torch.equal(task.state_dict()[key], value) for key, value in before.items())


def test_under_autocast_too() -> None:
    task, batch = adapted(build()), mixed()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = step(task, batch)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.adapter.parameters())  # type: ignore[union-attr]


def test_without_an_adapter_the_first_step_says_so() -> None:
    with pytest.raises(LightningMMError, match="distillation needs an adapter: the base is the teacher; add a Frozen"):
        trainer(max_epochs=1).fit(build(), loader(), loader())


def test_sentiment_and_segmentation() -> None:
    batch = mixed()
    for labels, outputs in (("regression", 1), ("binary", 1), ("binary", 2)):
        target = torch.arange(7) % 2 if labels == "binary" else torch.linspace(-3, 3, 7)
        taught = {"distillation": Distillation(weight=1.0)}
        task = SentimentTask(Late(outputs), list(WIDTHS), labels, **taught)  # type: ignore[arg-type]
        own = {**batch, "target": target}
        adapted(task, batch=own)
        with torch.no_grad(), task.adapter.disabled():  # type: ignore[union-attr,operator]
            teacher = task(batch["inputs"], batch["observed"])
        student = task(batch["inputs"], batch["available"])
        if labels == "regression":
            expected = ((student - teacher) ** 2).mean()
        elif outputs == 2:
            expected = distillation_loss(student, teacher)
        else:
            p, q = ((logit / 2).sigmoid() for logit in (teacher, student))
            expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
        torch.testing.assert_close(step(task, own)[1]["train/teacher_loss"], expected, rtol=1e-4, atol=1e-7)
    pixels = SemanticSegmentationTask(Late(), list(WIDTHS), 3)
    maps, others = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(pixels.distillation(maps, others), distillation_loss(maps, others, 2.0))
