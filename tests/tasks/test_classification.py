"""The classification task: metrics against slow loops and torchmetrics, training, absence, mistakes, the sweep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import binary_auroc, multiclass_accuracy, multiclass_f1_score

from lightning_mm import Modalities
from lightning_mm.errors import LightningMMError
from lightning_mm.sweep import sweep
from lightning_mm.tasks import ClassificationTask
from lightning_mm.tasks.metrics.classification import (
    ClassOneAUROC,
    auroc,
    classification_metrics,
    confusion_matrix,
    macro_f1,
    majority_share,
    weighted_f1,
)
from lightning_mm.testing import assert_missing_invariant
from tests.support.operations import Operations

WIDTHS = {"audio": 4, "video": 3}
NAMES = Modalities(WIDTHS)
SAMPLES = 22


class Linears(nn.Module):
    """One linear layer per modality, summed; does not know what is available."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.parts = nn.ModuleDict({name: nn.Linear(width, num_classes) for name, width in WIDTHS.items()})

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.parts[name](inputs[name]) for name in WIDTHS]).sum(0)


def build(num_classes: int = 3, **settings: Any) -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(settings.pop("model", Linears(num_classes)), list(WIDTHS), num_classes, **settings)


def samples(num_classes: int, poison: float | None = None, length: int = SAMPLES) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    centres = {name: 2 * torch.randn(num_classes, width, generator=generator) for name, width in WIDTHS.items()}
    rows = []
    for index in range(length):
        label, present = index % num_classes, NAMES.masks()[index % 3]
        inputs = {
            name: centres[name][label] + torch.randn(width, generator=generator) for name, width in WIDTHS.items()
        }
        for column, name in enumerate(WIDTHS):
            if poison is not None and not present[column]:
                inputs[name] = torch.full_like(inputs[name], poison)
        rows.append(
            {
                "inputs": inputs,
                "available": present,
                "observed": torch.ones(2, dtype=torch.bool),
                "target": torch.tensor(label),
                "index": index,
            }
        )
    return rows


def loader(num_classes: int = 3, poison: float | None = None) -> DataLoader[Any]:
    return DataLoader(samples(num_classes, poison), batch_size=8)  # type: ignore[arg-type]


def trainer(**settings: Any) -> Trainer:
    plain: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **{**plain, **settings})


def drawn(num_classes: int, count: int = 40, present: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    some = present or num_classes
    return torch.randint(some, (count,), generator=generator), torch.randint(some, (count,), generator=generator)


# metrics


def slow_f1(prediction: Tensor, target: Tensor, label: int) -> float | None:
    pairs = list(zip(prediction.tolist(), target.tolist()))
    hit = sum(p == label and t == label for p, t in pairs)
    wrong = sum((p == label) != (t == label) for p, t in pairs)
    return 2 * hit / (2 * hit + wrong) if hit + wrong else None


@pytest.mark.parametrize(("num_classes", "present"), [(2, 2), (5, 5), (7, 4)])
def test_metrics_against_slow_loops_and_torchmetrics(num_classes: int, present: int) -> None:
    prediction, target = drawn(num_classes, present=present)
    metrics = classification_metrics(prediction, target, num_classes)
    each = [slow_f1(prediction, target, label) for label in range(num_classes)]
    there = [value for value in each if value is not None]
    assert len(there) == present
    assert metrics["macro_f1"] == pytest.approx(sum(there) / len(there))
    assert metrics["accuracy"] == sum(p == t for p, t in zip(prediction.tolist(), target.tolist())) / 40
    support = [(target == label).sum().item() for label in range(num_classes)]
    expected = sum(n * value for n, value in zip(support, each) if value is not None) / 40
    confusion = confusion_matrix(prediction, target, num_classes)
    assert weighted_f1(confusion) == pytest.approx(expected)
    for average, value in {"macro": metrics["macro_f1"], "weighted": weighted_f1(confusion)}.items():
        theirs = multiclass_f1_score(prediction, target, num_classes, average=average)  # type: ignore[arg-type]
        assert value == pytest.approx(theirs.item(), rel=1e-6)
    micro = multiclass_accuracy(prediction, target, num_classes, average="micro").item()
    assert metrics["accuracy"] == pytest.approx(micro)


def test_auroc_counts_pairs_and_ties_half() -> None:
    generator = torch.Generator().manual_seed(0)
    score = (torch.rand(30, generator=generator) * 8).round() / 8
    target = torch.randint(2, (30,), generator=generator)
    pairs = [(p, n) for p in score[target == 1].tolist() for n in score[target == 0].tolist()]
    expected = sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs)
    assert auroc(score, target) == pytest.approx(expected)
    assert auroc(score, target) == pytest.approx(binary_auroc(score, target).item(), rel=1e-6)


def test_metrics_of_nothing_and_of_one_class_are_nan_and_warn_nobody() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    metrics = classification_metrics(nothing, nothing, 2, torch.zeros(0))
    assert all(math.isnan(value) for value in metrics.values())
    assert math.isnan(majority_share(nothing))
    assert math.isnan(auroc(torch.rand(3), torch.ones(3, dtype=torch.int64)))
    assert math.isnan(auroc(torch.tensor([0.1, math.nan]), torch.tensor([0, 1])))
    metric = ClassOneAUROC()
    metric.update(torch.randn(3, 2), torch.ones(3, dtype=torch.int64))
    assert metric.compute().isnan()


def test_majority_share() -> None:
    target = torch.tensor([4, 4, 1, 4, 0])
    assert majority_share(target) == 0.6
    assert majority_share(target) == classification_metrics(torch.full((5,), 4), target, 5)["accuracy"]


@pytest.mark.parametrize("num_classes", [2, 27])
def test_the_bootstrap_loops_over_no_samples(num_classes: int) -> None:
    def metrics(count: int) -> None:
        prediction, target = drawn(num_classes, count=count)
        with Operations() as seen:
            classification_metrics(prediction, target, num_classes, torch.rand(count) if num_classes == 2 else None)
        counts.append(seen.count)

    counts: list[int] = []
    metrics(40), metrics(4000)
    assert counts[0] == counts[1]
    assert 0 < counts[0] < 100


# the task


@pytest.mark.parametrize("num_classes", [2, 4])
def test_logged_metrics_are_those_of_the_sample_statistics_and_of_the_sweep(num_classes: int) -> None:
    task, data = build(num_classes), loader(num_classes)
    (logged,) = trainer().test(task, data, verbose=False)
    parts = [task.sample_statistics(task(b["inputs"], b["available"]), b["target"]) for b in data]
    metrics = task.metrics_from({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    assert set(metrics) == set(task.metric_directions)
    assert set(metrics) == {"accuracy", "macro_f1"} | ({"auroc"} if num_classes == 2 else set())
    assert {f"test/{name}" for name in metrics} | {"test/loss"} == set(logged)
    for name, value in metrics.items():
        assert logged[f"test/{name}"] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_sweep_gives_the_metrics_of_test_runs_with_intervals(num_classes: int) -> None:
    task = build(num_classes)
    result = sweep(task, loader(num_classes), trainer=trainer(), bootstrap=50)
    assert result.primary_metric == "accuracy"
    for combination in NAMES.combinations():
        rows = [{**row, "available": NAMES.mask(combination)} for row in samples(num_classes)]
        (logged,) = trainer().test(task, DataLoader(rows, batch_size=8), verbose=False)  # type: ignore[arg-type]
        for metric in task.metric_directions:
            assert result.value("zero_fill", combination, metric) == pytest.approx(logged[f"test/{metric}"], rel=1e-6)
    for row in result.rows:
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.value <= row.high


def test_fit_learns_the_signal_and_nothing_in_absent_places_matters() -> None:
    found = []
    for poison in (None, math.nan, 1e9):
        task = build(optimizer=lambda p: torch.optim.AdamW(p, lr=0.1))
        runner = trainer(max_epochs=2)
        runner.fit(task, loader(poison=poison), loader(poison=poison))
        metrics = {name: value.item() for name, value in runner.logged_metrics.items()}
        found.append((metrics, {name: value.clone() for name, value in task.state_dict().items()}))
    for metrics, weights in found[1:]:
        assert metrics == found[0][0]
        assert all(torch.equal(weights[name], value) for name, value in found[0][1].items())
    assert found[0][0]["val/accuracy"] > 0.6
    assert {"train/loss", "val/loss", "val/accuracy", "val/macro_f1"} == set(found[0][0])


def test_absent_places_leave_outputs_and_gradients_bit_identical() -> None:
    assert_missing_invariant(build(), NAMES, next(iter(loader()))["inputs"])


def test_loss_is_the_cross_entropy_of_torch() -> None:
    outputs, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 1])
    weights = torch.tensor([0.5, 2.0, 1.0])
    task = build(class_weights=weights.tolist(), label_smoothing=0.2)
    expected = F.cross_entropy(outputs, target, weights, label_smoothing=0.2)
    torch.testing.assert_close(task.loss(outputs, target), expected)
    torch.testing.assert_close(build().loss(outputs, target), F.cross_entropy(outputs, target))
    assert build(class_weights=[0.0, 1.0, 1.0]).loss(outputs[:1], target[:1]) == 0


def test_a_base_checkpoint_fits_whatever_the_loss(tmp_path: Path) -> None:
    base, runner = build(class_weights=[1.0, 2.0, 3.0]), trainer(max_epochs=1)
    runner.fit(base, loader(), loader())
    runner.save_checkpoint(tmp_path / "base.ckpt")
    stored = torch.load(tmp_path / "base.ckpt", weights_only=True)
    assert set(stored["state_dict"]) == {f"model.{name}" for name in base.model.state_dict()}
    task = build(base_ckpt=str(tmp_path / "base.ckpt"))
    assert all(torch.equal(base.model.state_dict()[k], v) for k, v in task.model.state_dict().items())


def test_one_class_in_validation_is_no_warning() -> None:
    rows = [{**row, "target": torch.tensor(1)} for row in samples(2, length=4)]
    (logged,) = trainer().validate(build(2), DataLoader(rows, batch_size=2), verbose=False)  # type: ignore[arg-type]
    assert math.isnan(logged["val/auroc"])


@pytest.mark.parametrize("wrong", [3, -1])
def test_labels_out_of_range_are_named(wrong: int) -> None:
    batch = next(iter(loader()))
    batch["target"][2] = wrong
    with pytest.raises(LightningMMError, match=rf"labels out of range: \[{wrong}\]; expected 0 to 2; set num_classes"):
        trainer(max_epochs=1).fit(build(), DataLoader([batch], batch_size=None), loader())
    task = build()
    with pytest.raises(LightningMMError, match="labels out of range"):
        task.sample_statistics(task(batch["inputs"]), batch["target"])
    with pytest.raises(LightningMMError, match=r"expected Int64\[B\], one label per sample, got torch.float32 \(4,\)"):
        task.check_target(torch.zeros(4))
    with pytest.raises(LightningMMError, match=r"expected Int64\[B\].* \(4, 1\)"):
        task.check_target(torch.zeros(4, 1, dtype=torch.int64))


def test_outputs_of_another_shape_are_named() -> None:
    model = Linears(5)
    del model.num_classes
    batch = next(iter(loader()))
    message = r"expected logits \[B, 3\], one per class, got \(8, 5\); set num_classes"
    task = build(model=model)
    with pytest.raises(LightningMMError, match=message):
        task.loss(task(batch["inputs"]), batch["target"])
    with pytest.raises(LightningMMError, match=message):
        task.sample_statistics(task(batch["inputs"]), batch["target"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 4, "model": Linears(3)}, "the task has num_classes 4, the network 3"),
        ({"class_names": ["a", "b"]}, r"num_classes is 3: .* got \['a', 'b'\]"),
        ({"num_classes": 1}, "num_classes is 1: expected at least 2"),
        ({"class_weights": [1.0]}, r"class_weights: expected 3 numbers, none negative, got \[1.0\]"),
        ({"class_weights": [1.0, -1.0, 1.0]}, "none negative"),
        ({"label_smoothing": 1.5}, "label_smoothing must be between 0 and 1, got 1.5"),
        ({"auxiliary_weight": -1.0}, "auxiliary_weight: expected 0 or more, got -1.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LightningMMError, match=message):
        build(**settings)


def test_predictions() -> None:
    outputs = trainer().predict(build(), loader())
    assert outputs is not None
    assert torch.cat([part["prediction"] for part in outputs]).shape == (SAMPLES,)
    assert macro_f1(confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 1]), 3)) == 1.0
