"""A module that keeps all kinds of state in its training step, its data, and runs with a placement."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_mm.adapters import SSF
from lightning_mm.callbacks import FrozenBackboneAdapter
from tests.support.their_module import MODALITIES
from tests.support.their_module import Fusion as Branches

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Fusion(Branches):
    """The same network with inputs that are called like the modalities."""

    def forward(self, camera: Tensor, radar: Tensor) -> Tensor:
        return super().forward(camera, radar)


class Eager(LightningModule):
    """Its training step keeps all kinds of state, and draws from all kinds of random numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = Fusion()
        self.accuracy = torchmetrics.MetricCollection(
            [torchmetrics.Accuracy("multiclass", num_classes=2), torchmetrics.CatMetric()], prefix="train/"
        )
        self.register_buffer("center", torch.zeros(()))
        self.losses: list[Tensor] = []
        self.counts: dict[str, list[int]] = {"steps": [0]}

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        outputs = self.model(batch["camera"], batch["radar"])
        loss = nn.functional.cross_entropy(outputs, batch["label"])
        self.accuracy["MulticlassAccuracy"](outputs, batch["label"])
        self.accuracy["CatMetric"](loss.detach())
        self.center += outputs.detach().mean()
        self.losses.append(loss.detach())
        self.counts["steps"][0] += 1
        self.counts.setdefault("new", []).append(batch_idx)
        self.latest = loss.detach()
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        self.log("train/loss", loss)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        outputs = self.model(batch["camera"], batch["radar"])
        self.log("val/loss", nn.functional.cross_entropy(outputs, batch["label"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.adapter.parameters(), lr=0.1, momentum=0.9)


class Samples(Dataset[Any]):
    def __init__(self, size: int = 32) -> None:
        generator = torch.Generator().manual_seed(1)
        self.label = torch.randint(0, 2, (size,), generator=generator)
        sign = (2.0 * self.label - 1).unsqueeze(1)
        self.camera, self.radar = (sign + torch.randn(size, n, generator=generator) for n in (6, 3))
        self.mask = torch.tensor([[True, False], [False, True], [True, True], [False, True]]).repeat(size // 4, 1)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = {name: getattr(self, name)[index] for name in ("camera", "radar", "label")}
        return {**sample, "available": self.mask[index], "observed": torch.ones(2, dtype=torch.bool)}


class Other(Samples):
    """Data by which another choice is made: only radar is ever missed."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.tensor([[True, False]]).repeat(len(self), 1)


def loader(shuffle: torch.Generator | None = None) -> DataLoader[Any]:
    return DataLoader(Samples(), batch_size=8, shuffle=shuffle is not None, generator=shuffle)


def callback(budget: Any = 20, **changes: Any) -> FrozenBackboneAdapter:
    placement = {"budget": budget, **changes.pop("placement", {})}
    return FrozenBackboneAdapter(SSF(), modalities=MODALITIES, placement=placement, **changes)


def trainer(folder: Path, callbacks: list[Any], epochs: int = 1, **settings: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, max_epochs=epochs, callbacks=callbacks, accelerator="cpu",
        **{"devices": 1, **QUIET, **settings},
    )  # fmt: skip


def sites(module: LightningModule) -> list[str]:
    return [site.name for site in module.adapter.sites]
