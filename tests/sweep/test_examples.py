"""Samples for pictures: they are what the task itself predicts, with the adapter on and off."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_mm.results import SweepResult, SweepRow
from lightning_mm.sweep.examples import SAMPLES, collect_examples

NAMES = ["rgb", "depth"]
COMBINATIONS = ["rgb", "depth", "rgb+depth"]


class Shift(nn.Module):
    """Stands for an adapter: adds one to the predicted class while it is on."""

    on = True

    @contextmanager
    def disabled(self) -> Any:
        self.on = False
        yield
        self.on = True


class Segmentation(nn.Module):
    """Predicts the class that the available inputs name in their first channel."""

    modalities, ignore_index, class_names = NAMES, 255, ("a", "b", "c", "d")

    def __init__(self) -> None:
        super().__init__()
        self.adapter = Shift()

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        stacked = torch.stack([inputs[name][:, 0] for name in NAMES], 1)
        chosen = (stacked * available[:, :, None, None]).amax(1).long() + self.adapter.on
        return nn.functional.one_hot(chosen.clamp(0, 3), 4).permute(0, 3, 1, 2).float()

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)


def batch(start: int, classes: list[int]) -> dict[str, Any]:
    """Samples whose target has that many classes."""
    size = len(classes)
    target = torch.zeros(size, 4, 4, dtype=torch.long)
    for row, count in enumerate(classes):
        target[row].view(-1)[:count] = torch.arange(count)
    target[:, 3, 3] = 255
    inputs = {"rgb": (target % 3).float()[:, None].repeat(1, 3, 1, 1), "depth": torch.ones(size, 1, 4, 4)}
    return {
        "inputs": inputs, "target": target, "index": torch.arange(start, start + size),
        "observed": torch.ones(size, 2, dtype=torch.bool),
    }  # fmt: skip


def result() -> SweepResult:
    rows = [SweepRow(m, c, c.count("+") + 1, "miou", 0.5, 6, 0) for m in ("zero_fill", "adapted") for c in COMBINATIONS]
    return SweepResult(rows, NAMES, "miou")


def test_samples_with_several_classes_from_different_batches() -> None:
    task = Segmentation()
    batches = [batch(0, [1, 2, 1]), batch(3, [1, 1, 3]), batch(6, [2, 3, 1])]
    found = collect_examples({"zero_fill": task, "adapted": task}, batches, result())
    assert found.index.tolist() == [1, 5, 7]
    assert set(found.predictions) == {(m, c) for m in ("zero_fill", "adapted") for c in COMBINATIONS}
    assert found.class_names == ["a", "b", "c", "d"]
    assert (found.truth[:, 3, 3] == -1).all()
    assert found.truth[2, 0, 2] == 2


def test_predictions_are_those_of_the_task_with_the_adapter_on_and_off() -> None:
    task = Segmentation()
    one = batch(0, [3, 3, 3, 3])
    found = collect_examples({"zero_fill": task, "adapted": task}, [one], result())
    assert len(found.index) == SAMPLES
    shown = one["inputs"]["rgb"][:SAMPLES, 0].numpy()
    np.testing.assert_array_equal(found.predictions["zero_fill", "rgb"], shown)
    np.testing.assert_array_equal(found.predictions["adapted", "rgb"], shown + 1)
    np.testing.assert_array_equal(found.predictions["zero_fill", "depth"], np.ones_like(shown))
    assert task.training, "left as it was"
    assert found.inputs["rgb"].dtype == np.uint8
    assert found.inputs["rgb"].max() == 255


def test_modes_are_restored_after_an_error() -> None:
    class Failing(Segmentation):
        def forward(self, *_: object) -> torch.Tensor:
            raise RuntimeError("no")

    task = Failing()
    task.frozen = nn.Dropout().eval()
    with pytest.raises(RuntimeError, match="no"):
        collect_examples({"zero_fill": task}, [batch(0, [1, 2, 1])], result())
    assert (task.training, task.frozen.training) == (True, False)


def test_other_tasks_only_name_their_classes() -> None:
    class Classification(nn.Module):
        class_names, modalities = ("x", "y"), NAMES

    found = collect_examples({"zero_fill": Classification()}, [], result())
    assert (found.class_names, found.methods, len(found.index)) == (["x", "y"], [], 0)
