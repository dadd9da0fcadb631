"""Videos from the data to the sweep: streams learn how blobs move, and adapting does not hurt."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from lightning_mm.adapters import SSF, OneHot
from lightning_mm.callbacks import FrozenBackboneAdapter, KeyedSeed
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.missing import Complete, MissingnessPolicy, UniformCombinations
from lightning_mm.models import MultiStreamVideoNetwork
from lightning_mm.sweep import sweep
from lightning_mm.tasks import ClassificationTask
from tests.support.new_tasks import trainer

CLASSES = 4
"""Left, right, up, down: a single frame tells nothing."""
FRAMES, SIDE = 6, 12


class Blobs(Dataset[dict[str, Any]]):
    """A blob moves over noise, bright in colour and dark in depth, from a random place."""

    def __init__(self, split: str, length: int = 192, noise: float = 1.8) -> None:
        self.split, self.length, self.noise = split, length, noise

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.split}/{index}".encode()))
        label = int(torch.randint(CLASSES, (), generator=generator))
        step = torch.arange(FRAMES) - (FRAMES - 1) / 2
        start = SIDE / 2 - 0.5 + 3 * torch.rand(2, generator=generator) - 1.5
        place = [start[0].expand(FRAMES), start[1].expand(FRAMES)]
        place[label // 2] = place[label // 2] + step * (1.5 if label % 2 else -1.5)
        rows, columns = torch.arange(SIDE).view(1, -1, 1), torch.arange(SIDE).view(1, 1, -1)
        distance = (rows - place[1].view(-1, 1, 1)) ** 2 + (columns - place[0].view(-1, 1, 1)) ** 2
        blob = torch.exp(-distance / 3).expand(3, -1, -1, -1)
        noise = self.noise * torch.randn(2, 3, FRAMES, SIDE, SIDE, generator=generator)
        return {"inputs": {"rgb": 2 * blob + noise[0], "depth": -2 * blob + 1 + noise[1]}, "target": label}


class Stream(nn.Sequential):
    in_channels, out_channels = 3, 16

    def __init__(self) -> None:
        layers = [nn.Conv3d(3, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU()]
        layers += [nn.Conv3d(8, 16, 3, stride=2, bias=False), nn.BatchNorm3d(16), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


def data(policy: MissingnessPolicy) -> ModalityDropoutDataModule:
    return ModalityDropoutDataModule(Blobs, ["rgb", "depth"], train_policy=policy, batch_size=16, seed=1)


def fit(task: ClassificationTask, policy: MissingnessPolicy, folder: Path, callbacks: list[Any], epochs: int) -> None:
    run = trainer(folder, [KeyedSeed(0), *callbacks], epochs, enable_checkpointing=False, limit_val_batches=0)
    run.fit(task, data(policy))


@pytest.mark.slow
@pytest.mark.parametrize("vote_absent", [True, False])
def test_streams_learn_and_adapting_does_not_hurt(tmp_path: Path, vote_absent: bool) -> None:
    """A base that saw complete data, then SSF. Chance is a quarter."""
    torch.manual_seed(0)
    network = MultiStreamVideoNetwork(
        {"rgb": Stream(), "depth": Stream()}, CLASSES, fusion_vote=True, vote_absent=vote_absent
    )
    optimizer: Any = lambda groups: torch.optim.AdamW(groups, lr=0.01)  # noqa: E731
    task = ClassificationTask(network, ["rgb", "depth"], CLASSES, optimizer=optimizer)
    fit(task, Complete(), tmp_path, [], 8)
    adapter = FrozenBackboneAdapter(SSF(), OneHot(), exclude=["head*"])
    fit(task, UniformCombinations(include_full=False), tmp_path, [adapter], 6)
    result = sweep(task, data(Complete()), trainer=trainer(tmp_path, []), bootstrap=0)
    found = {(row.method, row.combination): row.value for row in result.rows if row.metric == "accuracy"}
    assert found["zero_fill", "rgb+depth"] > 0.8
    assert found["adapted", "rgb+depth"] == found["zero_fill", "rgb+depth"]
    for name in ("rgb", "depth"):
        assert found["adapted", name] > found["zero_fill", name] - 0.03, name
    assert result.mean("adapted") > 0.6
    assert result.mean("adapted") > result.mean("zero_fill") + (0.1 if vote_absent else 0.05)
