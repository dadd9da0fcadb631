"""A tiny task and tiny data for the tests of the sweep, whose figures a slow loop can work out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

NAMES = ["rgb", "depth", "thermal"]
SAMPLES = 11


class Switch(nn.Module):
    """Stands for an adapter: adds a bias to the logits while it is on."""

    def __init__(self, bias: Sequence[float]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))
        self.enabled = True

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    def parameters_per_combination(self) -> float:
        return self.bias.numel() / 2


class VoteTask(LightningModule):
    """Adds the scores of the available modalities and picks the largest: 3 classes, accuracy and error."""

    primary_metric = "accuracy"
    metric_directions = {"accuracy": "max", "error": "min"}  # noqa: RUF012

    def __init__(self, modalities: Sequence[str], scale: Sequence[float] | None = None, bias: Any = None) -> None:
        super().__init__()
        self.modalities = list(modalities)
        self.scale = nn.Parameter(torch.tensor(list(scale or [1.0] * len(self.modalities))))
        self.calls: list[tuple[int, int]] = []
        if bias is not None:
            self.adapter = Switch(bias)

    def forward(self, inputs: Mapping[str, Tensor], available: Tensor) -> Tensor:
        self.calls.append(tuple(available.shape))
        assert not self.training
        scores = torch.stack([inputs[name] for name in self.modalities], dim=1) * self.scale[:, None]
        total = torch.where(available[:, :, None], scores, 0.0).sum(1)
        adapter = getattr(self, "adapter", None)
        return total + adapter.bias if adapter is not None and adapter.enabled else total

    def sample_statistics(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"hit": (outputs.argmax(-1) == target).long()}

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        accuracy = statistics["hit"].double().mean().item()
        return {"accuracy": accuracy, "error": 1 - accuracy}


class Scores(Dataset[dict[str, Any]]):
    """Random scores; every third sample did not observe ``depth`` if ``gaps``."""

    def __init__(self, size: int = SAMPLES, gaps: bool = False) -> None:
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(size, len(NAMES), 3, generator=generator)
        self.target = torch.randint(3, (size,), generator=generator)
        self.observed = torch.ones(size, len(NAMES), dtype=torch.bool)
        if gaps:
            self.observed[::3, 1] = False
        self.reads = 0

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        return {
            "inputs": {name: self.inputs[index, i] for i, name in enumerate(NAMES)},
            "available": self.observed[index],
            "observed": self.observed[index],
            "target": self.target[index],
            "index": index,
        }


class ScoresModule(LightningDataModule):
    def __init__(self, dataset: Scores) -> None:
        super().__init__()
        self.modalities, self.dataset = NAMES, dataset

    def test_dataloader(self) -> DataLoader[Any]:
        return loader(self.dataset)

    val_dataloader = test_dataloader


def loader(dataset: Dataset[Any], batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=batch_size)


def expected_accuracy(dataset: Scores, scale: Sequence[float], bias: Sequence[float], names: Sequence[str]) -> float:
    """Sample by sample, with plain lists."""
    hits = []
    for i in range(len(dataset)):
        columns = [NAMES.index(name) for name in names]
        if not all(bool(dataset.observed[i, c]) for c in columns):
            continue
        votes = [sum(float(dataset.inputs[i, c, k]) * scale[c] for c in columns) + bias[k] for k in range(3)]
        hits.append(votes.index(max(votes)) == int(dataset.target[i]))
    return sum(hits) / len(hits)
