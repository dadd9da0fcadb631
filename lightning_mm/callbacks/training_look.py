"""Measure the layers of an adapted network with the training step of its module, before the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.network.inputs import parameter_path
from lightning_mm.adapters.placement.sensitivity import LayerSensitivity, sensitivity
from lightning_mm.callbacks.capture import batches_of, capture_call, run_step
from lightning_mm.callbacks.unchanged import unchanged
from lightning_mm.errors import LightningMMError


def layer_sensitivity(
    trainer: Trainer,
    pl_module: LightningModule,
    network: nn.Module,
    key: str | Callable[[Any], Tensor],
    mask: Callable[[Any], Tensor] | None,
    observed: str,
    batches: int,
    seed: int,
) -> list[LayerSensitivity]:
    """Measure the sensitivity of each adapted layer to missing modalities on a few training batches.

    In the precision of the weights, without autocast, since gradients of different layers are compared.

    Args:
        trainer: The trainer of a fit.
        pl_module: The module, restored afterwards; its network is adapted.
        network: The adapted network.
        key: Path to ``available`` in a batch, or a function of the batch.
        mask: Reads ``available`` from a batch; None if the module itself passes it to its network.
        observed: The key of the observed modalities in a batch.
        batches: Maximum number of batches.
        seed: Seed of the random numbers that the step draws.

    Raises:
        LightningMMError: If the training step cannot be run by itself.
    """
    if not pl_module.automatic_optimization:
        raise LightningMMError(
            f"placement needs a training_step that returns its loss; {type(pl_module).__name__} optimizes by "
            "itself (automatic_optimization=False); choose the layers with `targets` and `exclude`"
        )
    adapter = pl_module.adapter
    assert isinstance(adapter, Adapter)
    device, limit = trainer.strategy.root_device, trainer.limit_train_batches
    count = min(batches, limit) if isinstance(limit, int) else batches

    def marked(batch: Any) -> bool:
        """Whether a batch holds both the available and the observed modalities."""
        return isinstance(batch, Mapping) and isinstance(key, str) and {key, observed} <= set(batch)

    def looks() -> Iterator[tuple[Any, Tensor, Tensor]]:
        for batch in islice(batches_of(trainer, pl_module, "fit", device), count):
            available = _in_call(pl_module, network, batch) if mask is None else mask(batch)
            yield batch, available, batch[observed] if marked(batch) else available

    def loss(batch: Any, available: Tensor) -> Tensor:
        shown = {**batch, key: available} if marked(batch) else batch
        with adapter.using(None if mask is None else available):
            return _loss(pl_module, shown)

    def look() -> list[LayerSensitivity]:
        with _on_device(pl_module, device), unchanged(pl_module, device, seed):
            pl_module.train()
            for child in pl_module.children():
                child.train(child is adapter)
            return sensitivity(adapter, network, looks(), loss)

    try:
        return look()
    except AttributeError:  # the setup of the module, which follows that of callbacks, creates something
        pl_module.setup("fit")
    try:
        return look()
    except AttributeError as error:
        raise _refused(pl_module, error) from error


def _in_call(pl_module: LightningModule, network: nn.Module, batch: Any) -> Tensor:
    """Return the mask that the module passes to its network."""
    path = parameter_path(network, "available")
    given = path and path.get(capture_call(pl_module, network, batch, "fit"))
    if not isinstance(given, Tensor):
        raise LightningMMError(
            f"{type(pl_module).__name__}.training_step passed `available` to its network once, but not again"
        )
    return given


def _loss(pl_module: LightningModule, batch: Any) -> Tensor:
    """Return the loss of the training step of the module."""
    try:
        output = run_step(pl_module, batch, "fit")
    except (LightningMMError, AttributeError):
        raise
    except Exception as error:
        raise _refused(pl_module, error) from error
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise LightningMMError(
            f"{type(pl_module).__name__}.training_step must return a loss, or a dict with one, for placement; "
            f"got a {type(output).__name__}"
        )
    return loss


def _refused(pl_module: LightningModule, error: Exception) -> LightningMMError:
    return LightningMMError(
        f"placement runs {type(pl_module).__name__}.training_step before the training, where it failed "
        f"({type(error).__name__}: {error}); create what it needs in __init__ or setup, or choose the layers with "
        "`targets` and `exclude`"
    )


@contextmanager
def _on_device(pl_module: LightningModule, device: torch.device) -> Iterator[None]:
    """Move the module to its device for a while; the trainer does so later, for the optimizer."""
    before = pl_module.device
    pl_module.to(device)
    try:
        yield
    finally:
        pl_module.to(before)
