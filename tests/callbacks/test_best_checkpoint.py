"""BestModelCheckpoint needs no settings: where it writes, what it watches, and that other files find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_mm.callbacks import BestModelCheckpoint
from lightning_mm.cli.lightning.resume import _candidates
from lightning_mm.data import ModalityDropoutDataModule, Scenes
from lightning_mm.tasks import SemanticSegmentationTask
from tests.support.cli_network import TinyNetwork


def test_a_fit_writes_best_and_last_into_its_folder(tmp_path: Path) -> None:
    task = SemanticSegmentationTask(TinyNetwork({"rgb": 3, "depth": 1}, 6), ["rgb", "depth"], num_classes=6)
    data = ModalityDropoutDataModule(
        lambda split: Scenes(split, size=16, train_length=8, val_length=4), ["rgb", "depth"]
    )
    writer = BestModelCheckpoint()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", devices=1, callbacks=[writer], **quiet
    )
    trainer.fit(task, data)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    assert (writer.monitor, writer.mode) == ("val/miou", "max")
    assert writer.best_model_score is not None
    assert 0 <= float(writer.best_model_score) <= 1
    config = {"trainer": {"callbacks": [{"class_path": "lightning_mm.callbacks.BestModelCheckpoint"}]}}
    assert _candidates(tmp_path, config) == [tmp_path / "last.ckpt"], "--ckpt_path auto goes on from it"


@pytest.mark.parametrize(
    ("arguments", "monitor", "mode"),
    [
        ({}, "val/loss", "min"),
        ({"monitor": "val/error"}, "val/error", "min"),
        ({"monitor": "a", "mode": "max"}, "a", "max"),
    ],
)
def test_other_modules_are_watched_by_their_loss_unless_told(
    tmp_path: Path, arguments: dict[str, Any], monitor: str, mode: str
) -> None:
    writer = BestModelCheckpoint(**arguments)
    writer.setup(Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False), LightningModule(), "fit")
    assert (writer.monitor, writer.mode, writer.dirpath) == (monitor, mode, str(tmp_path))
    assert torch.isinf(writer.kth_value)
