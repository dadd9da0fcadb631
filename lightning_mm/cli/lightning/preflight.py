"""Looks at one batch before anything is written: a mistake in data or settings then leaves nothing behind."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_mm.tasks import BaseTask
from lightning_mm.tree import take_rows


@torch.no_grad()
def preflight(task: BaseTask, batch: dict[str, Any]) -> None:
    """Run the network on a few samples, check the targets, and compute a loss.

    Raises:
        LightningMMError: If inputs, targets and network do not fit each other.
    """
    training = task.training
    few = _few(batch)
    with torch.random.fork_rng():
        outputs = task.eval()(few["inputs"], few["available"])
    task.check_target(batch["target"])
    task.loss(outputs, few["target"])
    task.train(training)


def _few(batch: dict[str, Any]) -> dict[str, Any]:
    """The first samples of a batch."""
    size = len(batch["available"])
    few: dict[str, Any] = take_rows(
        {key: batch[key] for key in ("inputs", "available", "target")}, torch.arange(min(size, 2)), size
    )
    return few


def first_batch(datamodule: LightningDataModule, split: str) -> Any:
    """The first batch of ``test``, or else of the validation split."""
    datamodule.prepare_data()
    datamodule.setup("test" if split == "test" else "validate")
    loader = datamodule.test_dataloader() if split == "test" else datamodule.val_dataloader()
    return next(iter(loader))


def look_at_task(trainer: Trainer, model: LightningModule, datamodule: LightningDataModule) -> None:
    """Do nothing: a study asks for this verb to get the facts below, before anything is trained.

    Args:
        trainer: Not used.
        model: Not used.
        datamodule: Not used.
    """


@torch.no_grad()
def facts_of(model: Any, datamodule: Any) -> dict[str, Any]:
    """Names of the metrics of a task, and whether its statistics hold one label of each sample."""
    few = _few(first_batch(datamodule, "val"))
    outputs = model.eval()(few["inputs"], few["available"])
    target = model.sample_statistics(outputs, few["target"]).get("target")
    return {"metrics": list(model.metric_directions), "labels": target is not None and target.ndim == 1}
