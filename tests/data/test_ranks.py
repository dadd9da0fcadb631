"""A sample has the same mask and the same augmentation on any number of ranks and of workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.missing import (
    ExactShare,
    IndependentMissing,
    MissingnessPolicy,
    RotatingCombinations,
    UniformCombinations,
    WeightedCombinations,
)

NAMES = ["a", "b", "c"]
LENGTH = 13  # not divisible by 2, 3 or 4
POLICIES: dict[str, MissingnessPolicy] = {
    "uniform": UniformCombinations(),
    "rotating": RotatingCombinations(include_full=False),
    "independent": IndependentMissing(0.4),
    "weighted": WeightedCombinations({"a": 3.0, "b+c": 1.0}),
    "exact": ExactShare(0.5, lose=["a"], block=10),
}


class Rows(Dataset[dict[str, Any]]):
    """Every third sample lacks ``b``."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> dict[str, Any]:
        values = {name: torch.full((2,), float(index)) for name in NAMES}
        return {"inputs": {**values, "b": None if index % 3 == 0 else values["b"]}, "target": index}


def shaken(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    inputs = {name: None if value is None else value + float(rng.random()) for name, value in sample["inputs"].items()}
    return {**sample, "inputs": inputs}


def seen(policy: MissingnessPolicy, workers: int, epoch: int) -> dict[int, tuple[list[bool], list[float]]]:
    """Index of each sample that this rank trains on, to its mask and its inputs."""
    module = ModalityDropoutDataModule(
        lambda split: Rows(), NAMES, train_policy=policy, augment=shaken, batch_size=3, num_workers=workers, seed=4
    )
    loader = module.train_dataloader()
    sampler: Any = loader.sampler
    sampler.set_epoch(epoch)
    found = {}
    for batch in loader:
        for row, index in enumerate(batch["index"].tolist()):
            values = [float(batch["inputs"][name][row].sum()) for name in NAMES]
            found[index] = batch["available"][row].tolist(), values
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_masks_and_augmentations_are_those_of_one_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {epoch: seen(POLICIES[name], 0, epoch) for epoch in (0, 1)}
    assert expected[0] != expected[1]
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    for ranks in (1, 2, 3, 4):
        monkeypatch.setattr(dist, "get_world_size", lambda ranks=ranks: ranks)
        for workers in (0, 2) if name == "uniform" and ranks == 2 else (0,):  # to start workers takes a while
            together: set[int] = set()
            for rank in range(ranks):
                monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
                found = seen(POLICIES[name], workers, epoch=1)
                assert found == {index: expected[1][index] for index in found}, (ranks, workers, rank)
                together |= set(found)
            assert together == set(range(LENGTH))
