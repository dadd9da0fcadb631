"""Gives a task the weights that it is swept or exported with."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_mm.callbacks import FrozenBackboneAdapter
from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.checkpoints import load_weights


def check_weights(trainer: Trainer, model: LightningModule, ckpt_path: str | None, verb: str, does: str) -> None:
    """Refuse to run without trained weights.

    Args:
        trainer: Its callbacks say whether there is an adapter.
        model: The task.
        ckpt_path: The checkpoint that was given, if any.
        verb: The verb, for the message.
        does: What it would do with random weights, such as ``show``.

    Raises:
        LightningMMError: If there is neither a checkpoint nor, for a network without an adapter, a ``base_ckpt``.
    """
    adapters = adapters_of(trainer)
    if ckpt_path is None and (adapters or getattr(model, "base_ckpt", None) is None):
        whose = "the adapter" if adapters else "the network"
        raise LightningMMError(
            f"{verb} needs the weights of {whose}, or it would {does} those of the start: give --ckpt_path, the "
            "checkpoint of an earlier fit"
        )


def attach_and_load(
    trainer: Trainer, model: LightningModule, datamodule: LightningDataModule, batch: Any, ckpt_path: str | None
) -> None:
    """Attach the adapters of the trainer's callbacks to the task and load the checkpoint, if there is one."""
    for callback in adapters_of(trainer):
        callback.attach(model, batch, "test", datamodule)
    if ckpt_path is not None:
        load_weights(model, ckpt_path)


def adapters_of(trainer: Trainer) -> list[FrozenBackboneAdapter]:
    """The callbacks of a trainer that attach an adapter."""
    return [one for one in trainer.callbacks if isinstance(one, FrozenBackboneAdapter)]  # type: ignore[attr-defined]
