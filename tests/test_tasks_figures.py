"""Segmentation figures: additive over samples, equal to torchmetrics, and the official confusion matrix."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_mm.tasks.segmentation_figures import confusion_per_sample, segmentation_figures


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
    figures = segmentation_figures(confusion, ["a", "b", "c"], 255)
    assert figures["iou_a"] == pytest.approx(3 / 4)
    assert figures["iou_b"] == pytest.approx(4 / 5)
    assert math.isnan(figures["iou_c"])
    assert figures["miou"] == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert figures["pixel_accuracy"] == pytest.approx(7 / 8)
    assert "iou" not in figures
    assert math.isnan(segmentation_figures(torch.zeros(3, 3, dtype=torch.int64), ["a", "b", "c"], 255)["miou"])


def test_two_classes_have_the_iou_of_class_one() -> None:
    figures = segmentation_figures(torch.tensor([[5, 2], [1, 4]]), ["dry", "flood"], 255)
    assert figures["iou"] == figures["iou_flood"] == pytest.approx(4 / 7)


def test_official_confusion_and_iou(golden_root: Path) -> None:
    with np.load(golden_root / "c2_segmentation_metrics.npz") as stored:
        data = {name: torch.from_numpy(stored[name]) for name in stored}
    confusion = torch.cat(
        [confusion_per_sample(data[f"logits_{i}"].argmax(1), data[f"target_{i}"], 9, 255) for i in range(2)]
    ).sum(0)
    assert torch.equal(confusion.float(), data["hist"])
    figures = segmentation_figures(confusion, [str(c) for c in range(9)], 255)
    iou = torch.tensor([figures[f"iou_{c}"] for c in range(9)]).double()
    # The official code counts a class that is nowhere (7) as 0 in the mean of 9; here it has no IoU.
    assert iou.isnan().tolist() == [c == 7 for c in range(9)]
    torch.testing.assert_close(iou.nan_to_num(0), data["derived_iou"])
    assert 100 * figures["miou"] * 8 / 9 == pytest.approx(data["iou_mean_pct_rounded"].item(), abs=0.01)
