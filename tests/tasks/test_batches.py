"""What tasks say of batches and targets that they cannot use: one message with the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks import ClassificationTask, SemanticSegmentationTask, SentimentTask

pytestmark = pytest.mark.wrong_types


class Net(nn.Module):
    """Returns what it is told to."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.out = nn.Parameter(torch.zeros(shape))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.out + sum(value.sum() for value in inputs.values())


def tasks() -> dict[str, Any]:
    names = ["rgb", "depth"]
    return {
        "classes": ClassificationTask(Net(4, 3), names, num_classes=3),
        "pixels": SemanticSegmentationTask(Net(4, 3, 2, 2), names, num_classes=3),
        "numbers": SentimentTask(Net(4), names),
        "signs": SentimentTask(Net(4), names, labels="binary"),
    }


def test_targets_of_other_types_are_answered_with_what_to_write() -> None:
    one, image = torch.tensor([0, 1, 2, 0]), torch.zeros(4, 2, 2, dtype=torch.int64)
    cases: list[tuple[str, Any, str]] = [
        ("classes", one.to(torch.uint8), r"got torch.uint8 \(4,\); write target.long\(\), or array.astype"),
        ("classes", one.to(torch.int32), r"got torch.int32 \(4,\); write target.long\(\), or array.astype"),
        ("classes", one > 0, r"got torch.bool \(4,\); write target.long\(\)"),
        ("classes", one.float(), r"got torch.float32 \(4,\); write target.long\(\)"),
        ("classes", nn.functional.one_hot(one).float(), r"of one-hot labels write target.argmax\(1\)"),
        ("classes", one[:, None], r"got torch.int64 \(4, 1\); write target.squeeze\(1\).long\(\)"),
        ("classes", ["cat", "dog", "cat", "cow"], "got a list of texts; give the number of each label, class_names"),
        ("classes", {"label": ["cat"]}, "got a dict of texts; give the number of each label"),
        ("classes", one.numpy(), "got a ndarray; make it one: torch.as_tensor"),
        ("classes", one.tolist(), "got a list; make it one: torch.as_tensor"),
        ("pixels", image.to(torch.uint8), r"per pixel, got torch.uint8 .*; write target.long\(\)"),
        ("pixels", nn.functional.one_hot(image, 3).movedim(-1, 1), r"of one-hot labels write target.argmax\(1\)"),
        ("pixels", nn.functional.one_hot(image, 3), r"of one-hot labels write target.argmax\(-1\)"),
        ("pixels", image[:, None].float(), r"write target.squeeze\(1\).long\(\)"),
        ("pixels", np.zeros((4, 2, 2), np.uint8), "got a ndarray; make it one: torch.as_tensor"),
        ("numbers", one, r"set labels to binary, or fix the labels: target.float\(\)"),
        ("numbers", ["good"] * 4, "tensor Float.* got a list; give each sample one number"),
        ("signs", one.to(torch.uint8), r"set labels to regression, or fix the labels: target.long\(\)"),
    ]
    made = tasks()
    for name, target, message in cases:
        with pytest.raises(LightningMMError, match=f"target: expected .*{message}"):
            made[name].check_target(target)


def test_outputs_and_targets_of_other_sizes() -> None:
    made = tasks()
    with pytest.raises(LightningMMError, match=r"one row of logits for each of 3 labels, got \(4, 3\)"):
        made["classes"].loss(torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64))
    for outputs, came in ((torch.zeros(4, 3, 1, 2), r"\(4, 3, 1, 2\)"), ({"out": torch.zeros(1)}, "a dict")):
        with pytest.raises(LightningMMError, match=rf"expected logits \[4, 3, 2, 2\], .* got {came}"):
            made["pixels"].loss(outputs, torch.zeros(4, 2, 2, dtype=torch.int64))


def test_batches_that_lack_something() -> None:
    task = tasks()["classes"]
    batch = {"inputs": {"rgb": torch.ones(4), "depth": torch.ones(4)}, "available": torch.ones(4, 2).bool()}
    whole = {**batch, "target": torch.zeros(4, dtype=torch.int64)}
    for key in ("inputs", "available", "target"):
        lacking = {name: value for name, value in whole.items() if name != key}
        with pytest.raises(LightningMMError, match=r"expected a batch with the keys .*, got only \['.*; Modality"):
            task.validation_step(lacking, 0)
    with pytest.raises(LightningMMError, match="got a batch without samples"):
        task.test_step({key: whole[key][:0] for key in ("available", "target")} | {"inputs": {}}, 0)
    with pytest.raises(LightningMMError, match="got a tuple"):
        task.training_step(tuple(whole.values()), 0)
    with pytest.raises(LightningMMError, match=r"\['inputs', 'available', 'index'\]"):
        task.predict_step(batch, 0)
    with pytest.raises(LightningMMError, match=r"inputs: expected a dict of \['rgb', 'depth'\], got a list"):
        task([torch.ones(4)] * 2, batch["available"])
    for mask in (batch["available"].tolist(), batch["available"].numpy(), batch["available"].long()):
        with pytest.raises(LightningMMError, match=r"available: expected Bool\[B, 2\]"):
            task(batch["inputs"], mask)
    with pytest.raises(LightningMMError, match=r"available: no modality is available in rows \[0, 2\] of the batch"):
        task(batch["inputs"], batch["available"] & torch.tensor([[False], [True], [False], [True]]))
