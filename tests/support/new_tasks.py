"""Classification and sentiment on generated data with a learnable signal, for tests of both tasks alike.

Shapes: B samples, T steps, C channels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.adapters import SSF, Basis
from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.missing import Complete, MissingnessPolicy, RotatingCombinations
from lightning_mm.modalities import Modalities
from lightning_mm.models import (
    ImageEncoder,
    LateFusionClassifier,
    SequenceEncoder,
    SequenceFusionTransformer,
    VectorEncoder,
)
from lightning_mm.tasks import BaseTask, ClassificationTask, SentimentTask
from tests.support.adapter_networks import trained_statistics

CLASSES = 3
NAMES = {"classification": ["image", "motion", "vector"], "sentiment": ["text", "audio", "video"]}
CHANNELS = {"motion": 3, "vector": 5, "text": 4, "audio": 3, "video": 2}
KINDS = [("classification", True), ("classification", False), ("sentiment", True), ("sentiment", False)]
"""Task and whether its network is told what is missing."""
PARTS = {"classification": "encoders.{0}.", "sentiment": "projections.{0}.|blocks.{0}."}
"""Prefixes of the parameters that belong to one modality alone."""


class Signals(Dataset[dict[str, Any]]):
    """A level of each sample shows in all modalities under noise: images, a vector, and sequences of 2 to 6 steps.

    The target is the level 0, 1 or 2, or for sentiment twice the level minus one.
    """

    def __init__(self, kind: str, split: str, length: int = 12, noise: float = 0.5) -> None:
        self.kind, self.split, self.length, self.noise = kind, split, length, noise

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.split}/{index}".encode()))
        level = int(torch.randint(CLASSES, (), generator=generator))
        inputs: dict[str, Any] = {}
        for name in NAMES[self.kind]:
            steps = int(torch.randint(2, 7, (), generator=generator))
            shape = {"image": (1, 8, 8), "vector": (CHANNELS["vector"],)}.get(name, (steps, CHANNELS.get(name, 0)))
            values = level - 1 + self.noise * torch.randn(shape, generator=generator)
            inputs[name] = values if name in ("image", "vector") else {"values": values, "length": steps}
        return {"inputs": inputs, "target": level if self.kind == "classification" else 2.0 * (level - 1)}


def data(
    kind: str, length: int = 12, policy: MissingnessPolicy | None = None, batch_size: int = 4
) -> ModalityDropoutDataModule:
    """Complete data unless there is a policy; validation then shows one combination after the other."""
    return ModalityDropoutDataModule(
        lambda split: Signals(kind, split, length),
        NAMES[kind],
        train_policy=policy or Complete(),
        val_policy=RotatingCombinations() if policy else None,
        batch_size=batch_size,
        seed=5,
    )


def batch_of(kind: str, size: int = 7) -> dict[str, Any]:
    """The first samples of the training split, complete."""
    module = data(kind, length=size, batch_size=size)
    module.setup("fit")
    return next(iter(module.train_dataloader()))


def task(kind: str, mask_absent: bool = True, lr: float = 0.01, **settings: Any) -> BaseTask:
    """Always the same weights."""
    torch.manual_seed(0)
    optimizer: Any = lambda groups: torch.optim.AdamW(groups, lr=lr)  # noqa: E731
    settings = {"modalities": NAMES[kind], "optimizer": optimizer, **settings}
    if kind == "classification":
        encoders: dict[str, torch.nn.Module] = {
            "image": ImageEncoder(1, width=4, out_channels=8, depth=2),
            "motion": SequenceEncoder(CHANNELS["motion"], width=8, out_channels=8, depth=2, kernel_size=3),
            "vector": VectorEncoder(CHANNELS["vector"], width=8, out_channels=8),
        }
        network = LateFusionClassifier(encoders, CLASSES, hidden=8, dropout=0.1, mask_absent=mask_absent)
        trained_statistics(network)
        return ClassificationTask(network, num_classes=CLASSES, **settings)
    widths = {name: CHANNELS[name] for name in NAMES[kind]}
    network = SequenceFusionTransformer(widths, 1, width=8, heads=2, layers=1, fusion_layers=1, mask_absent=mask_absent)
    return SentimentTask(network, **settings)


def attach(made: BaseTask, basis: Basis, **settings: Any) -> FrozenBackboneAdapter:
    """Freeze and adapt a task as a run would, from a batch of its data."""
    callback = FrozenBackboneAdapter(SSF(), basis, **settings)
    kind = "classification" if isinstance(made, ClassificationTask) else "sentiment"
    callback.attach(made, batch_of(kind))
    return callback


def trainer(folder: Path, callbacks: list[Any], epochs: int = 2, **settings: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder, max_epochs=epochs, callbacks=callbacks, accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **settings,
    )  # fmt: skip


def masks_of(kind: str, size: int) -> dict[str, Tensor]:
    """Every combination for a whole batch, and all of them mixed in one."""
    names = Modalities(NAMES[kind])
    whole = {name: names.mask(name).expand(size, -1).clone() for name in names.combinations()}
    mixed = names.masks()[torch.arange(size) % len(names.combinations())]
    return {**whole, "mixed": mixed}


def spoiled(value: Any, present: Tensor, poison: float) -> Any:
    """Put poison where a modality is absent, and beyond the length of the sequences that are there."""
    if isinstance(value, Mapping):
        values, length = value["values"], value["length"]
        steps = torch.arange(values.shape[1])
        counts = (steps < length[:, None]) & present[:, None]
        other = torch.where(length > 1, length - 1, length + 1)
        return {
            "values": torch.where(counts[:, :, None], values, poison),
            "length": torch.where(present, length, other),
        }
    return torch.where(present.view(-1, *[1] * (value.ndim - 1)), value, poison)


def row_of(batch: dict[str, Any], row: int) -> dict[str, Any]:
    """One sample of a batch, its sequences padded no further than they are long."""
    keep = slice(row, row + 1)
    inputs = {}
    for name, value in batch["inputs"].items():
        if isinstance(value, Mapping):
            length = int(value["length"][row])
            inputs[name] = {"values": value["values"][keep, :length], "length": value["length"][keep]}
        else:
            inputs[name] = value[keep]
    rest = {key: batch[key][keep] for key in ("available", "observed", "target", "index")}
    return {"inputs": inputs, **rest}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Keys whose tensors are not the same bits."""
    assert list(before) == list(after)
    return [key for key in before if not torch.equal(before[key], after[key])]
