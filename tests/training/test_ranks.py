"""A fit on two processes equals one of a single process with the same global batch, with labels spread unevenly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import Dataset

from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.missing import UniformCombinations
from lightning_mm.tasks import BaseTask, SemanticSegmentationTask
from tests.support.adapter_networks import trained_statistics
from tests.support.cli_network import TinyNetwork
from tests.support.new_tasks import NAMES, Signals, task

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
IGNORED = 255
GLOBAL_BATCH = 4


class Uneven(Dataset[dict[str, Any]]):
    """Images of two modalities; of every second sample a few pixels are labelled."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        inputs = {name: torch.randn(size, 6, 6, generator=generator) for name, size in (("rgb", 3), ("depth", 1))}
        target = torch.randint(3, (6, 6), generator=generator)
        if index % 2:
            target[1:] = IGNORED
        return {"inputs": inputs, "target": target}


def data(kind: str, ranks: int) -> ModalityDropoutDataModule:
    return ModalityDropoutDataModule(
        (lambda split: Uneven()) if kind == "segmentation" else (lambda split: Signals(kind, split)),
        ["rgb", "depth"] if kind == "segmentation" else NAMES[kind],
        train_policy=UniformCombinations(),
        batch_size=GLOBAL_BATCH // ranks,
        seed=3,
    )


def task_of(kind: str, weights: list[float]) -> BaseTask:
    settings: dict[str, Any] = {"class_weights": weights}
    if kind == "classification":
        return task(kind, mask_absent=False, **settings)
    torch.manual_seed(0)
    network = TinyNetwork({"rgb": 3, "depth": 1}, 3)
    trained_statistics(network)
    optimizer: Any = lambda groups: torch.optim.AdamW(groups, lr=0.01)  # noqa: E731
    return SemanticSegmentationTask(network, ["rgb", "depth"], 3, ignore_index=IGNORED, optimizer=optimizer, **settings)


class WriteAdapter(Callback):
    """What was learned and the loss that was logged, from the first process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = float(trainer.callback_metrics["train/loss"])
        if trainer.is_global_zero:
            torch.save([*(one.detach() for one in pl_module.adapter.parameters()), torch.tensor(loss)], self.path)


def fitted(
    kind: str, ranks: int, steps: int, precision: Any, folder: Path, weighted: bool = True
) -> list[torch.Tensor]:
    path = folder / f"{ranks}.pt"
    trainer = Trainer(
        accelerator="cpu", devices=ranks, strategy="auto" if ranks == 1 else "ddp_fork", max_steps=steps,
        precision=precision, callbacks=[FrozenBackboneAdapter(), WriteAdapter(path)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        default_root_dir=folder,
    )  # fmt: skip
    made = task_of(kind, [1.0, 2.0, 0.5])
    if not weighted:
        made.training_loss = made.loss  # type: ignore[method-assign]
    trainer.fit(made, datamodule=data(kind, ranks))
    return list(torch.load(path))


def difference(one: list[torch.Tensor], two: list[torch.Tensor]) -> float:
    assert max(float(value.abs().max()) for value in one[:-1]) > 0.02
    return max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segmentation", "classification"])
@pytest.mark.parametrize(("steps", "precision", "tolerance"), [(12, "32-true", 1e-4), (100, "64-true", 1e-6)])
def test_two_processes_learn_what_one_does(
    kind: str, steps: int, precision: str, tolerance: float, tmp_path: Path
) -> None:
    one, two = (fitted(kind, ranks, steps, precision, tmp_path) for ranks in (1, 2))
    assert difference(one, two) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_a_mean_of_means_would_be_seen(kind: str, tmp_path: Path) -> None:
    one, two = (fitted(kind, ranks, 6, "32-true", tmp_path, weighted=False) for ranks in (1, 2))
    assert difference(one, two) > 1e-3
