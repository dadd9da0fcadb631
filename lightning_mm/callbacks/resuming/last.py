"""Keeps ``last.ckpt`` the last one: ModelCheckpoint writes it only together with a best one."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint


class LastCheckpoint(Checkpoint):
    """Writes the ``last.ckpt`` of every ``ModelCheckpoint(save_last=True)`` that has not just written it itself.

    At the end of an epoch, and of a validation inside an epoch. It is a Checkpoint and the last callback of a trainer,
    so that the best ones are chosen before. ``save_last="link"`` stays a link to one of the best ones.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not loop.batch_progress.is_last_batch:
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False) or not is_whole_step(trainer):
            return
        for writer in trainer.checkpoint_callbacks:
            if not isinstance(writer, ModelCheckpoint) or writer.save_last is not True or writer.dirpath is None:
                continue
            if getattr(writer, "_last_global_step_saved", -1) != trainer.global_step:
                writer.last_model_path = writer.last_model_path or _place(writer, trainer)
                trainer.save_checkpoint(writer.last_model_path, bool(writer.save_weights_only))
                # Otherwise it writes it again after the training, when averaged weights have replaced the trained ones.
                writer._last_checkpoint_saved = writer.last_model_path


def is_whole_step(trainer: Trainer) -> bool:
    """Whether no gradients of an unfinished step are waiting, which no checkpoint could hold."""
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    return batches.is_last_batch or batches.current.completed % trainer.accumulate_grad_batches == 0


def _place(writer: ModelCheckpoint, trainer: Trainer) -> str:
    """Where the callback would write its ``last.ckpt``."""
    values = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
    values.update(trainer.callback_metrics)
    name, version = writer.format_checkpoint_name(values, writer.CHECKPOINT_NAME_LAST), 1
    while getattr(writer, "_enable_version_counter", False) and writer.file_exists(name, trainer):
        name, version = writer.format_checkpoint_name(values, writer.CHECKPOINT_NAME_LAST, ver=version), version + 1
    return name
