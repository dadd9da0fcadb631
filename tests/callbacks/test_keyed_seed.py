"""The random numbers of a training step are those of its seed, epoch, batch and rank."""

from __future__ import annotations

import random

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_mm.callbacks import KeyedSeed


def drawn(seed: int = 0, rank: int = 0, batch: int = 0) -> tuple[float, float, float]:
    strategy = SingleDeviceStrategy("cpu")
    strategy.global_rank = rank
    trainer = Trainer(strategy=strategy, accelerator="cpu", logger=False, enable_checkpointing=False)
    KeyedSeed(seed).on_train_batch_start(trainer, LightningModule(), None, batch)
    return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002 - what it seeds


def test_random_numbers_differ_between_ranks_batches_and_seeds_and_come_again() -> None:
    keys = [{}, {"rank": 1}, {"rank": 2}, {"batch": 1}, {"seed": 1}]
    once, again = [drawn(**key) for key in keys], [drawn(**key) for key in keys]
    assert once == again
    for numbers in zip(*once):
        assert len(set(numbers)) == len(keys)
