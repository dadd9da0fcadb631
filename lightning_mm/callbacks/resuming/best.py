"""A ModelCheckpoint that needs no settings: ``best.ckpt`` and ``last.ckpt`` in the folder of the run."""

from __future__ import annotations

from typing import Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

LOSS = "val/loss"


class BestModelCheckpoint(ModelCheckpoint):
    """Writes ``best.ckpt`` and ``last.ckpt`` into ``default_root_dir``, where overlays and studies look for them.

    Best is the epoch with the best primary metric of the task on validation data, such as ``val/accuracy``. It needs
    no arguments in a config: ``callbacks: [lightning_mm.callbacks.BestModelCheckpoint]``.

    Args:
        monitor: The logged value that decides; default: ``val/<primary metric>`` of a task of ours, ``val/loss`` of
            other modules.
        mode: Whether the largest or the smallest value is best; default: what is better for a metric of the task,
            otherwise ``min``.
    """

    def __init__(self, monitor: str | None = None, mode: Literal["min", "max"] | None = None) -> None:
        super().__init__(
            filename="best", monitor=monitor, mode=mode or "min", save_last=True, enable_version_counter=False
        )
        self._mode = mode

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = self.dirpath or trainer.default_root_dir
        primary = getattr(pl_module, "primary_metric", "")
        self.monitor = self.monitor or (f"val/{primary}" if primary else LOSS)
        if self._mode is None:
            directions = getattr(pl_module, "metric_directions", {})
            self.mode = directions.get(self.monitor.removeprefix("val/"), "min")
            self.kth_value = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)
        super().setup(trainer, pl_module, stage)
