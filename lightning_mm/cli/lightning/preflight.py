"""Looks at one batch before anything is written: a mistake in data or settings then leaves nothing behind."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from lightning_mm.tasks import BaseTask


@torch.no_grad()
def preflight(task: BaseTask, batch: dict[str, Any]) -> None:
    """Run the network on a few samples, check the targets, and compute a loss.

    Raises:
        LightningMMError: If inputs, targets and network do not fit each other.
    """
    training = task.training
    with torch.random.fork_rng():
        outputs = task.eval()({name: few(value) for name, value in batch["inputs"].items()}, few(batch["available"]))
    task.check_target(batch["target"])
    task.loss(outputs, few(batch["target"]))
    task.train(training)


def few(value: Any) -> Any:
    """The first two samples of an input."""
    if isinstance(value, dict):
        return {key: few(leaf) for key, leaf in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(few(leaf) for leaf in value)
    return value[:2]


def first_batch(datamodule: LightningDataModule, split: str) -> Any:
    """The first batch of ``test``, or else of the validation split."""
    datamodule.prepare_data()
    datamodule.setup("test" if split == "test" else "validate")
    loader = datamodule.test_dataloader() if split == "test" else datamodule.val_dataloader()
    return next(iter(loader))
