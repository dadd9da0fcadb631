"""Random numbers keyed by (seed, epoch, batch, rank), so that a resumed run equals the uninterrupted one."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class KeyedSeed(Callback):
    """Seeds python, numpy and torch before every training batch.

    Lightning saves no random state; this needs none saved. Data order, augmentation and masks have keys of their own
    (:class:`~lightning_mm.data.ModalityDropoutDataModule`); this covers what draws from the global state, such as
    dropout. Not once an epoch: loaders draw from that state too, at other moments in a resumed run.

    Args:
        seed: Default: that of ``seed_everything``, else 0.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        key = [seed, trainer.current_epoch, batch_idx, trainer.global_rank]
        words = np.random.SeedSequence(key).generate_state(2)
        random.seed(int(words[0]))
        np.random.seed(int(words[0]))  # noqa: NPY002 - the global state is what this seeds
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
