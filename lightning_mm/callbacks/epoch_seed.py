"""Random numbers keyed by (seed, epoch, rank): a run resumed at an epoch boundary equals the uninterrupted one."""

from __future__ import annotations

import os
import random

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Seeds python, numpy and torch at the start of every training epoch.

    Lightning saves no random state; this needs none saved. Data order, augmentation and masks have keys of their own
    (:class:`~lightning_mm.data.ModalityDropoutDataModule`); this covers what draws from the global state, such as
    dropout.

    Args:
        seed: Default: that of ``seed_everything``, else 0.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed
        words = np.random.SeedSequence([seed, trainer.current_epoch, trainer.global_rank]).generate_state(2)
        random.seed(int(words[0]))
        np.random.seed(int(words[0]))  # noqa: NPY002 - the global state is what this callback seeds
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
