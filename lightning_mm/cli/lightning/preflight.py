"""Looks at one batch before anything is written: a mistake in data or settings then leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks import BaseTask
from lightning_mm.tasks.base import STEP_KEYS
from lightning_mm.tasks.checks import check_batch
from lightning_mm.tree import dotted, is_column, leaves_of, take_rows


@torch.no_grad()
def preflight(task: BaseTask, batch: dict[str, Any]) -> None:
    """Run the network on a few samples, check the targets, and compute a loss.

    Raises:
        LightningMMError: If inputs, targets and network do not fit each other.
    """
    check_batch(batch, STEP_KEYS)
    training = task.training
    few = _few(batch)
    task.check_target(batch["target"])
    with torch.random.fork_rng():
        try:
            outputs = task.eval()(few["inputs"], few["available"])
        except LightningMMError:
            raise
        except Exception as error:
            given = {name: _form(value) for name, value in few["inputs"].items()}
            known = not isinstance(error, KeyError) or (error.args and error.args[0] in given)
            way = "" if known else "if this is a modality, list it in data.modalities, or read no other inputs; "
            took = ", ".join(f"{name} {form}" for name, form in given.items())
            raise LightningMMError(
                f"{type(task.model).__name__} raised {type(error).__name__}: {error} on inputs of {took}; {way}"
                "LIGHTNING_MM_TRACEBACK=1 shows where"
            ) from error
    task.loss(outputs, few["target"])
    task.train(training)


def _form(nest: Any) -> str:
    """Dtypes and shapes of the leaves of an input."""
    forms = []
    for path, leaf in leaves_of(nest, is_column):
        form = f"{leaf.dtype} {list(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
        forms.append(f"{dotted(path)}: {form}" if path else form)
    return f"({', '.join(forms)})"


def _few(batch: dict[str, Any]) -> dict[str, Any]:
    """The first samples of a batch."""
    size = len(batch["available"])
    few: dict[str, Any] = take_rows(
        {key: batch[key] for key in ("inputs", "available", "target")}, torch.arange(min(size, 2)), size
    )
    return few


def first_batch(datamodule: LightningDataModule, split: str) -> Any:
    """The first batch of ``test``, or else of the validation split."""
    return next(batches_of(datamodule, split))


def batches_of(datamodule: LightningDataModule, split: str) -> Iterator[Any]:
    """The batches of ``test``, or else of the validation split."""
    datamodule.prepare_data()
    datamodule.setup("test" if split == "test" else "validate")
    return iter(datamodule.test_dataloader() if split == "test" else datamodule.val_dataloader())


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
