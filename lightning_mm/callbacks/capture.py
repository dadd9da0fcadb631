"""See how a LightningModule calls its network, from one batch, without running the network."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
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

    step: Callable[..., Any] = getattr(module, STEPS[stage])
    modes = {part: part.training for part in module.modules()}
    module.eval()  # what stands before the network must not update its statistics
    handle = network.register_forward_pre_hook(stop, with_kwargs=True)
    # logging needs a loop that runs, and there is none yet
    own: dict[str, Any] = {name: vars(module)[name] for name in ("log", "log_dict") if name in vars(module)}
    module.log = module.log_dict = _ignore  # type: ignore[method-assign]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            takes = inspect.signature(step).parameters.values()
            extra = sum(one.kind in (one.POSITIONAL_OR_KEYWORD, one.POSITIONAL_ONLY) for one in takes) - 1
            step(batch, *[0] * min(extra, 2))
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
        for part, training in modes.items():
            part.training = training
        del module.log, module.log_dict
        vars(module).update(own)
    raise LightningMMError(
        f"{type(module).__name__}.{STEPS[stage]} did not call the network; "
        "name the attribute that it calls with `network`"
    )


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stands in for ``log`` and ``log_dict`` while a call is captured."""


def first_batch(trainer: Trainer, module: LightningModule, stage: str) -> Any:
    """One batch of the stage's loader as its step sees it, wherever the loader comes from."""
    # Lightning has no public way to the loader before the loop sets it up; the optimizer needs the adapter before that.
    source = {
        "fit": trainer.fit_loop._data_source,
        "validate": trainer.validate_loop._data_source,
        "test": trainer.test_loop._data_source,
        "predict": trainer.predict_loop._data_source,
    }[stage]
    loader = source.dataloader()
    if isinstance(loader, CombinedLoader) or not isinstance(loader, (dict, list, tuple)):
        combined = loader
    else:  # as the loops do: all at once in fit, one after the other elsewhere
        combined = CombinedLoader(loader, "max_size_cycle" if stage == "fit" else "sequential")
    batch = next(iter(combined), None)
    if isinstance(combined, CombinedLoader) and batch is not None:
        batch = batch[0]  # (batch, its index, the loader's index)
    if batch is None:
        raise LightningMMError(
            f"the {stage} loader is empty; FrozenBackboneAdapter needs one batch to see how the network is called"
        )
    # what the module's own transfer hooks make of it; on the CPU, where the network still is
    return module._apply_batch_transfer_handler(batch, device=torch.device("cpu"), dataloader_idx=0)
