"""Looks at one batch before anything is written: a mistake in data or settings then leaves nothing behind."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks import BaseTask
from lightning_mm.tasks.base import STEP_KEYS
from lightning_mm.tasks.checks import check_batch
from lightning_mm.tree import take_rows


@torch.no_grad()
def preflight(task: BaseTask, batch: dict[str, Any]) -> None:
    """Run the network on a few samples, check the targets, and compute a loss.

    Raises:
        LightningMMError: If inputs, targets and network do not fit each other.
    """
    check_batch(batch, STEP_KEYS)
    training = task.training
    size = len(batch["available"])
    few = take_rows({key: batch[key] for key in ("inputs", "available", "target")}, torch.arange(min(size, 2)), size)
    task.check_target(batch["target"])
    with torch.random.fork_rng():
        try:
            outputs = task.eval()(few["inputs"], few["available"])
        except KeyError as error:
            read = error.args[0] if error.args else None
            if read in few["inputs"]:
                raise
            raise LightningMMError(
                f"{type(task.model).__name__} raised KeyError: {read!r} on inputs of {list(few['inputs'])}, the "
                "modalities that data.modalities lists; if this is a modality, list it too, or read only what `inputs` "
                "holds"
            ) from error
    task.loss(outputs, few["target"])
    task.train(training)


def first_batch(datamodule: LightningDataModule, split: str) -> Any:
    """The first batch of ``test``, or else of the validation split."""
    datamodule.prepare_data()
    datamodule.setup("test" if split == "test" else "validate")
    loader = datamodule.test_dataloader() if split == "test" else datamodule.val_dataloader()
    return next(iter(loader))
