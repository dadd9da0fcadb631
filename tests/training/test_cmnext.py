"""CMNeXt-B0 learns a signal that both modalities show, and adapting it pays where one is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mm.adapters import SSF, OneHot
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.missing import Complete, MissingnessPolicy, UniformCombinations
from lightning_mm.models import CMNeXt
from lightning_mm.sweep import sweep
from lightning_mm.tasks import SemanticSegmentationTask
from lightning_mm.testing import FakeSegmentation
from tests.support.new_tasks import trainer

NAMES = ["rgb", "thermal"]
CLASSES = 3
CHANCE = 1 / 5
"""The IoU of guessing one of three classes that are equally frequent: 1/9 of the pixels over 5/9."""


def data(policy: MissingnessPolicy) -> ModalityDropoutDataModule:
    def split_of(split: str) -> FakeSegmentation:
        return FakeSegmentation(split, dict.fromkeys(NAMES, 3), CLASSES, size=64, length=64)

    return ModalityDropoutDataModule(split_of, NAMES, train_policy=policy, batch_size=8, seed=5)


@pytest.mark.slow
def test_cmnext_learns_and_adapting_pays(tmp_path: Path) -> None:
    """A base that saw complete data only, then SSF on every incomplete combination."""
    torch.manual_seed(0)
    optimizer: Any = lambda groups: torch.optim.AdamW(groups, lr=0.001)  # noqa: E731
    task = SemanticSegmentationTask(CMNeXt("B0", NAMES, CLASSES), NAMES, num_classes=CLASSES, optimizer=optimizer)
    settings: dict[str, Any] = {"enable_checkpointing": False, "limit_val_batches": 0}
    trainer(tmp_path, [KeyedSeed(0)], epochs=10, **settings).fit(task, data(Complete()))
    base = {key: value.clone() for key, value in task.model.state_dict().items()}

    callbacks = [KeyedSeed(0), FrozenBackboneAdapter(SSF(), OneHot(), exclude=["head*"])]
    task.optimizer = lambda groups: torch.optim.AdamW(groups, lr=0.01)
    trainer(tmp_path, callbacks, epochs=10, **settings).fit(task, data(UniformCombinations(include_full=False)))
    assert all(torch.equal(value, base[key]) for key, value in task.model.state_dict().items())

    result = sweep(task, data(Complete()), trainer=trainer(tmp_path, []), bootstrap=0)
    figures = {(row.method, row.combination): row.value for row in result.rows if row.metric == result.primary_metric}
    assert figures["zero_fill", "rgb+thermal"] > CHANCE + 0.4, figures
    assert figures["adapted", "rgb+thermal"] == figures["zero_fill", "rgb+thermal"]
    assert result.mean("adapted") > result.mean("zero_fill") + 0.1, figures
    assert result.mean("adapted") > CHANCE + 0.2, figures
