"""Stops a training after a batch and writes where it was, so that it can be resumed exactly."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_mm.cli.stopping import Stop


class StopInOrder(Callback):
    """While it trains, a signal stops the loop after the batch; then ``last.ckpt`` is written and named.

    Ranks of a distributed run agree after every batch but the last of an epoch: Lightning's own handler talks to the
    other ranks as soon as the signal comes, whatever they are waiting for, and both may then wait for ever.

    With ``accumulate_grad_batches`` it may stop between two steps, where no checkpoint could hold the gradients: the
    one of the epoch before stays. So it does without a ModelCheckpoint, whose folder is used.
    """

    def __init__(self, stop: Stop) -> None:
        self.stop = stop
        self._inside_validation: bool | None = None  # of the stop; None before
        self._agreed = False  # of the ranks, to stop

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.deferring = True
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.stop)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.world_size > 1 and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._agreed = trainer.strategy.reduce_boolean_decision(self.stop.received is not None, all=False)
            if self._agreed:
                raise SIGTERMException

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.deferring = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        deferred, self.stop.deferring = self.stop.deferring, False
        if not (self.stop.received or self._agreed) or not deferred or getattr(trainer, "fast_dev_run", False):
            return
        writer = next((one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)), None)
        if writer is None or writer.dirpath is None:
            return
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress
        ready, done = batches.current.ready, batches.current.processed
        whole = ready == batches.current.completed + self._agreed  # no error in the middle of a batch
        if whole and (batches.is_last_batch or done % trainer.accumulate_grad_batches == 0):
            self._inside_validation = trainer.validating
            writer.last_model_path = writer.last_model_path or _place_of_last(writer, trainer)
            trainer.save_checkpoint(writer.last_model_path)
        if writer.last_model_path and Path(writer.last_model_path).is_file():
            self.stop.note = f"resume with --ckpt_path {writer.last_model_path}"

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._inside_validation is None:
            return
        progress = checkpoint["loops"]["fit_loop"]
        if self._inside_validation:
            # As at the start of the validation, which is then run whole.
            batches = progress["epoch_loop.val_loop.batch_progress"]
            nothing = dict.fromkeys(batches["current"], 0)
            batches.update(total={**nothing, "ready": 1, "started": 1}, current=nothing, is_last_batch=False)
        else:
            # Between two epochs: as in the checkpoint that is written at the end of one.
            epochs = progress["epoch_progress"]
            for counts in (epochs["total"], epochs["current"]):
                if counts["completed"] == counts["ready"]:
                    counts["completed"] -= 1


def _place_of_last(writer: ModelCheckpoint, trainer: Trainer) -> str:
    """Where the callback would write its ``last.ckpt``."""
    values = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
    values.update(trainer.callback_metrics)
    name, version = writer.format_checkpoint_name(values, writer.CHECKPOINT_NAME_LAST), 1
    while getattr(writer, "_enable_version_counter", False) and writer.file_exists(name, trainer):
        name, version = writer.format_checkpoint_name(values, writer.CHECKPOINT_NAME_LAST, ver=version), version + 1
    return name
