"""See how a LightningModule calls its network, from one batch, without running the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_mm.adapters.inputs import Call
from lightning_mm.errors import LightningMMError

STEPS = {"fit": "training_step", "validate": "validation_step", "test": "test_step", "predict": "predict_step"}


class _Called(Exception):
    """Carries the call out of the step."""


def capture_call(module: LightningModule, network: nn.Module, batch: Any, stage: str) -> Call:
    """Run the stage's step up to its first call of the network and return the ``(args, kwargs)`` of that call.

    Raises:
        LightningMMError: If the step ends or fails before it calls the network.
    """

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Called(args, kwargs)

    step: Callable[[Any, int], Any] = getattr(module, STEPS[stage])
    handle = network.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            step(batch, 0)
    except _Called as called:
        args, kwargs = called.args
        return args, kwargs
    except Exception as error:
        if isinstance(error, LightningMMError):
            raise
        raise LightningMMError(
            f"{type(module).__name__}.{STEPS[stage]} failed before it called its network "
            f"({type(error).__name__}: {error}); give "
            "FrozenBackboneAdapter an `example`: a function from a batch to the (args, kwargs) of the network's forward"
        ) from error
    finally:
        handle.remove()
    raise LightningMMError(
        f"{type(module).__name__}.{STEPS[stage]} did not call the network; "
        "name the attribute that it calls with `network`"
    )


def first_batch(trainer: Trainer, stage: str) -> Any:
    """One batch of the stage's loader, wherever it was given: to the trainer, by the data module or by the module."""
    # Lightning has no public way to the loader before the loop sets it up; the optimizer needs the adapter before that.
    source = {
        "fit": trainer.fit_loop._data_source,
        "validate": trainer.validate_loop._data_source,
        "test": trainer.test_loop._data_source,
        "predict": trainer.predict_loop._data_source,
    }[stage]
    loader = source.dataloader()
    loader = loader[0] if isinstance(loader, (list, tuple)) else loader
    batch = next(iter(loader), None)
    if batch is None:
        raise LightningMMError(
            f"the {stage} loader is empty; FrozenBackboneAdapter needs one batch to see how the network is called"
        )
    return batch
