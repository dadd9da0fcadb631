"""What both systems that train in their own way owe: absent values, hidden files, batches without pairs, export."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm import Modalities
from lightning_mm.callbacks import KeyedSeed
from lightning_mm.cli.lightning.export import export_task
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.export import Runtime
from lightning_mm.missing import Complete, PairedShare, RotatingCombinations
from lightning_mm.models import EmbeddingPrediction, SingleBranchClassifier, VectorEncoder
from lightning_mm.tasks import EmbeddingPredictionTask, SingleBranchTask
from lightning_mm.tasks.classification import ClassificationTask

NAMES = Modalities(["audio", "video"])
WIDTHS = {"audio": 5, "video": 4}
SIZE = 20
SYSTEMS = ["embedding_prediction", "unimodal", "single_branch"]
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 0, "enable_checkpointing": False,
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def build(system: str) -> ClassificationTask:
    torch.manual_seed(0)
    encoders: Any = {name: VectorEncoder(width, 8, 8, depth=1) for name, width in WIDTHS.items()}
    if system == "single_branch":
        return SingleBranchTask(SingleBranchClassifier(encoders, 3, embedding=8), list(NAMES), 3)
    stage: Any = "unimodal" if system == "unimodal" else "predict"
    return EmbeddingPredictionTask(EmbeddingPrediction(encoders, 3), list(NAMES), 3, stage=stage)


class Files(Dataset[dict[str, Any]]):
    """Samples with one file per modality."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read_some(index, NAMES)

    def read_some(self, index: int, modalities: Sequence[str]) -> dict[str, Any]:
        inputs = {name: torch.load(self.folder / f"{name}{index}.pt") for name in modalities}
        return {"inputs": inputs, "target": index % 3}


def written(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for name, width in WIDTHS.items():
        for index in range(SIZE):
            torch.save(torch.randn(width, generator=generator) + index % 3, folder / f"{name}{index}.pt")
    return folder


def data(folder: Path, system: str, share: float) -> ModalityDropoutDataModule:
    settings: dict[str, Any] = {"switching": "random"} if system == "single_branch" else {}
    return ModalityDropoutDataModule(
        lambda split: Files(folder), list(NAMES), train_policy=Complete(), val_policy=RotatingCombinations(),
        train_observed=PairedShare(share), batch_size=4, seed=2, **settings,
    )  # fmt: skip


def fitted(folder: Path, system: str, share: float) -> tuple[ClassificationTask, Trainer]:
    """A task after two epochs on training data with this share of pairs; validation data are not read."""
    task, module = build(system), data(folder, system, share)
    trainer = Trainer(default_root_dir=folder, max_epochs=2, callbacks=[KeyedSeed(3)], limit_val_batches=0, **QUIET)
    trainer.fit(task, module)
    return task, trainer


@pytest.mark.parametrize("system", SYSTEMS)
def test_hidden_files_are_deleted_and_training_is_the_same(system: str, tmp_path: Path) -> None:
    expected, _ = fitted(written(tmp_path), system, 0.5)
    exists = PairedShare(0.5).draw(NAMES, range(SIZE), epoch=0, seed=2)
    hidden = [
        (index, name) for index, row in enumerate(exists.tolist()) for name, there in zip(NAMES, row) if not there
    ]
    assert len(hidden) == SIZE // 2
    for index, name in hidden:
        (tmp_path / f"{name}{index}.pt").unlink()
    found, _ = fitted(tmp_path, system, 0.5)
    states = expected.state_dict(), found.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[0][name]) for name, value in build(system).state_dict().items())


@pytest.mark.parametrize("system", SYSTEMS)
def test_without_any_pair_training_is_finite(system: str, tmp_path: Path) -> None:
    task, trainer = fitted(written(tmp_path), system, 0.0)
    assert all(value.isfinite().all() for value in task.state_dict().values())
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert all(math.isfinite(value) for value in logged.values())
    assert logged["train/loss"] > 0
    if system == "embedding_prediction":
        assert logged["train/vicreg"] == 0, "exactly"
        assert logged["train/loss"] == pytest.approx(logged["train/unimodal_loss"] + logged["train/combined_loss"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_absent_values_change_no_bit_of_a_fit_and_of_outputs(system: str, tmp_path: Path) -> None:
    """The same fit with NaN instead of what the table hides, and outputs of the trained network."""
    task, _ = fitted(written(tmp_path), system, 0.5)
    exists = PairedShare(0.5).draw(NAMES, range(SIZE), epoch=0, seed=2)
    for index, row in enumerate(exists.tolist()):
        for name, there in zip(NAMES, row):
            if not there:
                torch.save(torch.full((WIDTHS[name],), math.nan), tmp_path / f"{name}{index}.pt")
    again, _ = fitted(tmp_path, system, 0.5)
    states = task.state_dict(), again.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    clean = {name: torch.randn(SIZE, width) for name, width in WIDTHS.items()}
    spoiled = {name: torch.where(exists[:, [k]], value, math.nan) for k, (name, value) in enumerate(clean.items())}
    with torch.no_grad():
        outputs: Tensor = task.eval()(clean, exists)
        assert torch.equal(outputs, task(spoiled, exists))
    assert outputs.isfinite().all()


@pytest.mark.slow
@pytest.mark.compiled
def test_a_single_branch_is_exported(tmp_path: Path) -> None:
    """Each combination as a program; that of embedding prediction: see its own test."""
    written(tmp_path)
    task = build("single_branch").eval()
    trainer = Trainer(default_root_dir=tmp_path, **QUIET)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    export_task(trainer, task, data(tmp_path, "single_branch", 0.5), str(tmp_path / "out"), str(tmp_path / "one.ckpt"),
                formats=["torch"])  # fmt: skip
    runtime, given = Runtime(tmp_path / "out"), {name: torch.randn(3, width) for name, width in WIDTHS.items()}
    for mask in NAMES.masks():
        with torch.no_grad():
            expected = task(given, mask.expand(3, -1))
        found = runtime({name: given[name].numpy() for name in NAMES.parse(NAMES.name(mask))})
        torch.testing.assert_close(torch.as_tensor(found), expected, rtol=1e-4, atol=1e-4)
