"""The emotion task: the reference numbers, a slow loop, training and sweep, and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_f1_score

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.sweep import sweep
from lightning_mm.tasks import EmotionTask
from lightning_mm.tasks.metrics.emotions import EmotionMetrics, emotion_metrics, label_confusion
from lightning_mm.testing import assert_missing_invariant

EMOTIONS = ["neutral", "happy", "sad", "angry"]
WIDTHS = {"text": 5, "audio": 3}
NAMES = Modalities(WIDTHS)


class Linears(nn.Module):
    """One linear layer per modality, summed."""

    def __init__(self, outputs: int = 8) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(width, outputs) for name, width in WIDTHS.items()})

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.parts[name](inputs[name]) for name in WIDTHS]).sum(0)


def build(outputs: int = 8, **settings: Any) -> EmotionTask:
    torch.manual_seed(0)
    return EmotionTask(Linears(outputs), list(WIDTHS), EMOTIONS, **settings)


def loader(count: int = 23) -> DataLoader[Any]:
    generator, rows = torch.Generator().manual_seed(1), []
    for index in range(count):
        inputs = {name: torch.randn(width, generator=generator) for name, width in WIDTHS.items()}
        target = (torch.cat([inputs["text"][:2], inputs["audio"][:2]]) > 0.3).long()
        row = {"inputs": inputs, "available": NAMES.masks()[index % 3], "observed": torch.ones(2, dtype=torch.bool)}
        rows.append({**row, "target": target, "index": index})
    return DataLoader(rows, batch_size=8)  # type: ignore[arg-type]


def trainer(**settings: Any) -> Trainer:
    plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{**plain, **settings})


def test_the_reference_numbers(golden_root: Path) -> None:
    with np.load(golden_root / "c1_sentiment_metrics.npz") as stored:
        outputs, truth, expected = (torch.from_numpy(stored[f"iemocap_{one}"]) for one in ("pred", "truth", "f1_acc"))
    prediction = build().predictions(outputs)
    metric = EmotionMetrics(EMOTIONS)
    for rows in (slice(0, 40), slice(40, 60)):
        metric.update(prediction[rows], truth[rows])
    epoch = {name: value.item() for name, value in metric.compute().items()}
    found = emotion_metrics(label_confusion(prediction, truth).sum(0), EMOTIONS)
    assert found == pytest.approx(epoch, rel=1e-6)
    for name, (f1, accuracy) in zip(EMOTIONS, expected.tolist()):
        assert (found[f"f1_{name}"], found[f"acc_{name}"]) == pytest.approx((f1, accuracy), rel=1e-9)
    assert found["mean_f1"] == pytest.approx(float(expected[:, 0].mean()), rel=1e-9)


def test_metrics_against_torchmetrics() -> None:
    prediction, truth = torch.randint(0, 2, (2, 31, 4)).unbind()
    prediction[:, 1] = 0
    found = emotion_metrics(label_confusion(prediction, truth).sum(0), EMOTIONS)
    for column, name in enumerate(EMOTIONS):
        p, t = prediction[:, column], truth[:, column]
        assert found[f"acc_{name}"] == pytest.approx((p == t).double().mean().item())
        assert found[f"f1_{name}"] == pytest.approx(multiclass_f1_score(p, t, 2, average="weighted").item(), rel=1e-6)


def test_the_loss_is_that_of_every_label() -> None:
    task, outputs, target = build(), torch.randn(6, 8), torch.randint(0, 2, (6, 4))
    loss = nn.functional.cross_entropy(outputs.view(-1, 2), target.view(-1))
    assert torch.allclose(task.loss(outputs, target), loss)
    assert torch.equal(task.predictions(outputs), outputs.view(6, 4, 2).argmax(-1))
    assert task.distillation(outputs, outputs.clone()).item() == pytest.approx(0, abs=1e-6)


def test_training_test_and_sweep_agree() -> None:
    task, data = build(optimizer=lambda groups: torch.optim.Adam(groups, lr=0.1)), loader()
    trainer(max_epochs=12).fit(task, data, data)
    (logged,) = trainer().test(task, data, verbose=False)
    result = sweep(task, data, bootstrap=30)
    full = {row.metric: row for row in result.rows if row.combination == "text+audio"}
    assert set(full) == set(task.metric_directions) == {name.removeprefix("test/") for name in logged} - {"loss"}
    assert full["mean_f1"].value > 0.9, "it learns"
    assert result.value("zero_fill", "text", "f1_sad") < full["f1_sad"].value, "sad and angry are in the audio"
    low, high = full["mean_f1"].low, full["mean_f1"].high
    assert low is not None
    assert high is not None
    assert low <= full["mean_f1"].value <= high
    whole: list[dict[str, Any]] = [{**row, "available": torch.ones(2, dtype=torch.bool)} for row in data.dataset]
    (logged,) = trainer().test(task, DataLoader(whole, batch_size=8), verbose=False)  # type: ignore[arg-type]
    assert {name: logged[f"test/{name}"] for name in full} == pytest.approx(
        {name: row.value for name, row in full.items()}, rel=1e-5
    )


def test_nothing_in_absent_places_matters() -> None:
    inputs = {name: torch.randn(3, width) for name, width in WIDTHS.items()}
    assert_missing_invariant(build(), NAMES, inputs)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(3, 4), r"expected Int64\[B, 4\] of 0 and 1, .* got torch.float32 \(3, 4\)"),
        (torch.zeros(3, dtype=torch.int64), r"got torch.int64 \(3,\)"),
        (torch.zeros(3, 3, dtype=torch.int64), r"got shape \(3, 3\)"),
        (torch.full((3, 4), 2), r"and labels \[2\]"),
        ([0, 1], "got list"),
    ],
)
def test_wrong_targets_are_named(target: Any, message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build().check_target(target)


def test_wrong_settings_and_outputs_are_named() -> None:
    with pytest.raises(LightningMMError, match=r"expected logits \[B, 8\], .* got \(2, 4\); set the number of outputs"):
        build(outputs=4).predictions(torch.zeros(2, 4))
    for wrong in ([], ["sad", "sad"], [""]):
        with pytest.raises(LightningMMError, match="emotions: expected one or more distinct names"):
            EmotionTask(Linears(), list(WIDTHS), wrong)
