"""A callback that writes down which samples every rank has trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class BatchRecord(Callback):
    """Appends epoch, batch and samples of every trained batch to ``batches.RANK.txt`` in the trainer's folder."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        path = Path(trainer.default_root_dir) / f"batches.{trainer.global_rank}.txt"
        with path.open("a") as file:
            file.write(f"{trainer.current_epoch} {batch_idx} {batch['index'].tolist()}\n")
