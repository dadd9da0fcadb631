"""Random numbers keyed by (seed, epoch, batch, rank), so that a resumed run equals the uninterrupted one."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class KeyedSeed(Callback):
    """Seeds Python, NumPy and torch before every training batch, so that no random state has to be saved.

    This is for everything that draws from the global state, such as dropout; data order, augmentation and masks do not
    (:class:`~lightning_mm.data.ModalityDropoutDataModule`). One seed per epoch would not suffice: loaders draw from the
    global state too, at other times in a resumed run.

    Args:
        seed: Default: the seed of ``seed_everything``, else 0.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        key = [seed, trainer.current_epoch, batch_idx, trainer.global_rank]
        words = np.random.SeedSequence(key).generate_state(2)
        random.seed(int(words[0]))
        np.random.seed(int(words[0]))  # noqa: NPY002 - seeds the global state
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
