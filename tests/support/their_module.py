"""Somebody else's LightningModule with its own batch format, its data, and runs of it with `FrozenBackboneAdapter`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_mm.adapters import SSF
from lightning_mm.callbacks import FrozenBackboneAdapter

MODALITIES = ["camera", "radar"]


class Fusion(nn.Module):
    """BatchNorm and dropout in both branches; knows nothing of missing modalities."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.camera = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3))
        self.radar = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(width, 2)

    def forward(self, image: Tensor, echo: Tensor) -> Tensor:
        return self.head(self.camera(image) + self.radar(echo))


class Theirs(LightningModule):
    """Somebody else's module: tuples as batches, the network under a name of its own, its own logging."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = Fusion()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def step(self, batch: tuple[Tensor, ...]) -> Tensor:
        image, echo, _, label = batch
        return nn.functional.cross_entropy(self.net(image, echo=echo), label)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        loss = self.step(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        self.log("val_loss", self.step(batch))

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        self.log("test_loss", self.step(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


class Samples(Dataset[Any]):
    """(image, echo, available, label); the label can be read from either modality."""

    def __init__(self, size: int = 32) -> None:
        generator = torch.Generator().manual_seed(1)
        self.label = torch.randint(0, 2, (size,), generator=generator)
        sign = (2.0 * self.label - 1).unsqueeze(1)
        self.image = sign + torch.randn(size, 6, generator=generator)
        self.echo = sign + torch.randn(size, 3, generator=generator)
        self.available = torch.tensor([[True, False], [False, True], [True, True], [False, True]]).repeat(size // 4, 1)
        self.image[~self.available[:, 0]] = float("nan")  # what is absent may hold anything

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.image[index], self.echo[index], self.available[index], self.label[index]


class Clean(Samples):
    def __init__(self) -> None:
        super().__init__()
        self.image = self.image.nan_to_num()


def loader() -> DataLoader[Any]:
    return DataLoader(Samples(), batch_size=8)


def callback(**changes: Any) -> FrozenBackboneAdapter:
    settings = {
        "network": "net",
        "available": "2",
        "modalities": MODALITIES,
        "inputs": {"camera": "image", "radar": "echo"},
    }
    return FrozenBackboneAdapter(SSF(), **{**settings, **changes})


def trainer(folder: Path, callbacks: list[Any], epochs: int = 2, **settings: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, max_epochs=epochs, callbacks=callbacks, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip


def module(seed: int = 0) -> Theirs:
    torch.manual_seed(seed)
    made = Theirs()
    made.train()
    for _ in range(3):
        made.net(torch.randn(16, 6), torch.randn(16, 3))  # running statistics that are not those of the start
    return made
