"""Write predictions to disk as they come."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer


class PredictionWriter(Callback):
    """One ``.npz`` per batch with ``index`` (B), ``available`` (B, M) and ``prediction`` (B, ...).

    Args:
        folder: Where the files go; each is written beside its place and then renamed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / f"batch-{batch_idx:06d}-rank{trainer.global_rank}.npz"
        beside = place.with_suffix(".tmp.npz")
        np.savez_compressed(beside, **{key: value.cpu().numpy() for key, value in outputs.items()})
        os.replace(beside, place)
