"""Write predictions to disk as they come."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter


class PredictionWriter(BasePredictionWriter):
    """One ``.npz`` per batch with ``index`` (B), ``available`` (B, M) and ``prediction`` (B, ...).

    Args:
        folder: Where the files go; each is written beside its place and then renamed.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / f"batch-{batch_idx:06d}-rank{trainer.global_rank}.npz"
        beside = place.with_suffix(".tmp.npz")
        np.savez_compressed(beside, **{key: value.cpu().numpy() for key, value in prediction.items()})
        os.replace(beside, place)
