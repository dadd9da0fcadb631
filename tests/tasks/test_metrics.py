"""Segmentation metrics: additive over samples, equal to torchmetrics, and the official confusion matrix and metrics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_mm.tasks import SemanticSegmentationTask
from lightning_mm.tasks.metrics.segmentation import (
    AbsentClasses,
    MeanOverClasses,
    class_metrics,
    confusion_per_sample,
    segmentation_metrics,
)


def labels(classes: int, batch: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(classes, (batch, 5, 6), generator=generator)
    target = torch.randint(classes, (batch, 5, 6), generator=generator)
    target[torch.rand(batch, 5, 6, generator=generator) < 0.2] = 255
    return prediction, target


def test_confusion_against_a_slow_loop() -> None:
    prediction, target = labels(4)
    confusion = confusion_per_sample(prediction, target, 4, 255)
    expected = torch.zeros(3, 4, 4, dtype=torch.int64)
    for b, y, x in np.ndindex(3, 5, 6):
        if target[b, y, x] != 255:
            expected[b, target[b, y, x], prediction[b, y, x]] += 1
    assert torch.equal(confusion, expected)


def test_batch_composition_does_not_matter() -> None:
    prediction, target = labels(4)
    rows = [confusion_per_sample(prediction[b : b + 1], target[b : b + 1], 4, 255) for b in range(3)]
    assert torch.equal(torch.cat(rows), confusion_per_sample(prediction, target, 4, 255))


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    confusion = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    metrics = segmentation_metrics(confusion, ["a", "b", "c"], 255)
    assert metrics["iou_a"] == pytest.approx(3 / 4)
    assert metrics["iou_b"] == pytest.approx(4 / 5)
    assert math.isnan(metrics["iou_c"])
    assert metrics["miou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert metrics["pixel_accuracy"] == pytest.approx(7 / 8)
    assert "iou" not in metrics
    assert math.isnan(segmentation_metrics(torch.zeros(3, 3, dtype=torch.int64), ["a", "b", "c"], 255)["miou"])


def test_two_classes_have_the_iou_of_class_one() -> None:
    metrics = segmentation_metrics(torch.tensor([[5, 2], [1, 4]]), ["dry", "flood"], 255)
    assert metrics["iou"] == metrics["iou_flood"] == pytest.approx(4 / 7)


# Truth in rows. "c" is predicted but nowhere in the truth, "d" is nowhere.
CONFUSION = [[3, 1, 1, 0], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("absent", "ignored", "macc", "mf1"),
    [
        ("skip", 255, (3 / 5 + 4 / 6) / 2, (6 / 10 + 8 / 11 + 0) / 3),
        ("zero", 255, (3 / 5 + 4 / 6 + 0 + 0) / 4, (6 / 10 + 8 / 11 + 0 + 0) / 4),
        ("skip", 2, (3 / 5 + 4 / 6) / 2, (6 / 10 + 8 / 11) / 2),
        ("zero", 2, (3 / 5 + 4 / 6 + 0) / 3, (6 / 10 + 8 / 11 + 0) / 3),
    ],
)
def test_mean_accuracy_and_f1_by_hand(absent: AbsentClasses, ignored: int, macc: float, mf1: float) -> None:
    """As metrics of a confusion matrix, and as metrics that see the pixels."""
    confusion = torch.tensor(CONFUSION)
    metrics = segmentation_metrics(confusion, list("abcd"), ignored, absent)
    pairs = [(truth, found) for truth, found in np.ndindex(4, 4) for _ in range(CONFUSION[truth][found])]
    target, prediction = torch.tensor([*pairs, (ignored, 0)]).T
    for figure, expected in (("acc", macc), ("f1", mf1)):
        metric = MeanOverClasses(figure, 4, ignored, absent)  # type: ignore[arg-type]
        metric.update(prediction, target)
        assert metric.compute().item() == pytest.approx(expected, rel=1e-6)
        assert metrics[f"m{figure}"] == pytest.approx(expected)
    assert not [name for name in metrics if name.startswith(("acc", "f1"))], "none of single classes"


def test_nothing_to_average_is_no_number() -> None:
    metric = MeanOverClasses("acc", 3, 255, "skip")
    metric.update(torch.zeros(1, 4, dtype=torch.int64), torch.full((1, 4), 255))
    metrics = segmentation_metrics(torch.zeros(3, 3, dtype=torch.int64), ["a", "b", "c"], 255)
    assert all(math.isnan(value) for value in (metric.compute().item(), metrics["macc"], metrics["mf1"]))


class Given(nn.Module):
    """Puts out the logits that it is given."""

    num_classes = 9

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["rgb"]


def test_official_confusion_and_metrics(golden_root: Path) -> None:
    with np.load(golden_root / "c2_segmentation_metrics.npz") as stored:
        data = {name: torch.from_numpy(stored[name]) for name in stored}
    task = SemanticSegmentationTask(Given(), ["rgb"], 9, absent_classes="zero")
    parts = []
    for i in range(2):
        outputs = task({"rgb": data[f"logits_{i}"]})
        parts.append(task.sample_statistics(outputs, data[f"target_{i}"])["confusion"])
        task._stage_metrics("val").update(task.metric_inputs(outputs), data[f"target_{i}"])
    confusion = torch.cat(parts)
    assert torch.equal(confusion.sum(0).float(), data["hist"])
    logged = {name.removeprefix("val/"): value.item() for name, value in task._stage_metrics("val").compute().items()}
    for metrics in (task.metrics_from({"confusion": confusion}), logged):
        iou = torch.tensor([metrics[f"iou_{c}"] for c in range(9)])
        torch.testing.assert_close(iou.double(), data["derived_iou"], rtol=1e-6, atol=0)
        assert (100 * iou).tolist() == pytest.approx(data["iou_per_class_pct_rounded"].tolist(), abs=0.0051)
        for name in ("iou", "acc", "f1"):
            assert 100 * metrics[f"m{name}"] == pytest.approx(data[f"{name}_mean_pct_rounded"].item(), abs=0.0051)
            assert metrics[f"m{name}"] == pytest.approx(data[f"derived_{name}"].mean().item(), rel=1e-6)
    for name, values in class_metrics(confusion.sum(0), "zero").items():
        torch.testing.assert_close(values, data[f"derived_{name}"], rtol=1e-6, atol=0)
        assert (100 * values).tolist() == pytest.approx(data[f"{name}_per_class_pct_rounded"].tolist(), abs=0.0051)
    assert data["derived_iou"][7] == 0, "the class that is nowhere"
    skipped = segmentation_metrics(confusion.sum(0), [str(c) for c in range(9)], 255)
    assert skipped["miou"] * 8 / 9 == pytest.approx(metrics["miou"])
    assert skipped["mf1"] * 8 / 9 == pytest.approx(metrics["mf1"])
    assert skipped["macc"] * 7 / 9 == pytest.approx(metrics["macc"]), "class 8 is predicted, but not in the truth"
