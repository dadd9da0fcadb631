"""Write predictions to disk, batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_mm.files import replace_file


class PredictionWriter(Callback):
    """One ``.npz`` per batch with ``index`` (B), ``available`` (B, M) and ``prediction`` (B, ...).

    Args:
        folder: Where the files go.
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
        path = self.folder / f"batch-{batch_idx:06d}-rank{trainer.global_rank}.npz"
        arrays = {key: value.cpu().numpy() for key, value in outputs.items()}
        replace_file(path, lambda file: np.savez_compressed(file, **arrays))
