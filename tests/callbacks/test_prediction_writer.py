"""Predictions on disk, whatever nest ``predict_step`` returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_mm.callbacks import PredictionWriter


class Span(NamedTuple):
    start: Any
    words: Any


def written(folder: Path, outputs: Any) -> dict[str, Any]:
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    PredictionWriter(folder).on_predict_batch_end(trainer, LightningModule(), outputs, {}, 3)
    (path,) = folder.iterdir()
    assert path.name == "batch-000003-rank0.npz"
    with np.load(path) as file:  # without pickle
        return {name: file[name].tolist() for name in file.files}


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (torch.tensor([1, 2]), {"prediction": [1, 2]}),
        (torch.tensor([0.5, 2.0], dtype=torch.bfloat16), {"prediction": [0.5, 2.0]}),
        (Span(torch.tensor([1, 2]), ["a", "b"]), {"prediction.0": [1, 2], "prediction.1": ["a", "b"]}),
        (["a", None], {"prediction": ["a", "None"]}),
        ({"mean": np.ones(2), "spread": None, "steps": 4}, {"prediction.mean": [1, 1], "prediction.steps": 4}),
    ],
)
def test_every_leaf_is_an_array(tmp_path: Path, prediction: Any, expected: dict[str, Any]) -> None:
    outputs = {"index": torch.tensor([5, 6]), "prediction": prediction}
    assert written(tmp_path / "made", outputs) == {"index": [5, 6], **expected}


def test_outputs_that_are_no_dict_are_the_prediction(tmp_path: Path) -> None:
    assert written(tmp_path, (torch.tensor([1]), torch.tensor([2]))) == {"prediction.0": [1], "prediction.1": [2]}


class Doubles(LightningModule):
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return 2 * batch


@pytest.mark.filterwarnings("ignore:The 'predict_dataloader' does not have many workers")
def test_several_loaders_do_not_overwrite_each_other(tmp_path: Path) -> None:
    loaders = [DataLoader(list(torch.arange(first, first + 4.0)), batch_size=2) for first in (0, 10)]  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=PredictionWriter(tmp_path),
    )
    trainer.predict(Doubles(), loaders)
    arrays = {path.name: np.load(path)["prediction"].tolist() for path in tmp_path.iterdir()}
    assert arrays == {
        "loader0-batch-000000-rank0.npz": [0, 2],
        "loader0-batch-000001-rank0.npz": [4, 6],
        "loader1-batch-000000-rank0.npz": [20, 22],
        "loader1-batch-000001-rank0.npz": [24, 26],
    }
