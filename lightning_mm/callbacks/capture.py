"""Capture how a LightningModule calls its network on one batch, without running the network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import nn

from lightning_mm.adapters import SSF, Adapter, Additive
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities

STEPS = {"fit": "training_step", "validate": "validation_step", "test": "test_step", "predict": "predict_step"}


class _Called(Exception):
    """Ends the step; its arguments are the call."""


def capture_call(module: LightningModule, network: nn.Module, batch: Any, stage: str) -> Call:
    """Run the step of a stage up to its first call of the network, and return the ``(args, kwargs)`` of that call.

    Raises:
        LightningMMError: If the step returns or fails before it calls the network.
    """

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Called(args, kwargs)

    modes = {part: part.training for part in module.modules()}
    module.eval()  # layers before the network must not update their statistics
    handle = network.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.no_grad(), torch.random.fork_rng():
            run_step(module, batch, stage)
    except _Called as called:
        args, kwargs = called.args
        return args, kwargs
    except Exception as error:
        if isinstance(error, LightningMMError):
            raise
        if isinstance(error, AttributeError) and "'adapter'" in str(error) and not hasattr(module, "adapter"):
            with _adapter_without_layers(module):
                return capture_call(module, network, batch, stage)
        raise LightningMMError(
            f"{type(module).__name__}.{STEPS[stage]} failed before it called its network "
            f"({type(error).__name__}: {error}); give "
            "FrozenBackboneAdapter an `example`: a function from a batch to the (args, kwargs) of the network's forward"
        ) from error
    finally:
        handle.remove()
        for part, training in modes.items():
            part.training = training
    raise LightningMMError(
        f"{type(module).__name__}.{STEPS[stage]} did not call the network; "
        "name the attribute that it calls with `network`"
    )


@contextmanager
def _adapter_without_layers(module: LightningModule) -> Iterator[None]:
    """Give a module an adapter that changes nothing, for a step that calls its network inside `adapter.using(mask)`."""
    module.adapter = Adapter(SSF(), Additive(), Modalities(["any"]), None, [], {})
    try:
        yield
    finally:
        del module.adapter


def run_step(module: LightningModule, batch: Any, stage: str) -> Any:
    """Run the step of a stage on a batch, outside of any loop and without logging, and return its result."""
    step: Callable[..., Any] = getattr(module, STEPS[stage])
    takes = inspect.signature(step).parameters.values()
    extra = sum(one.kind in (one.POSITIONAL_OR_KEYWORD, one.POSITIONAL_ONLY) for one in takes) - 1
    with _silent(module):
        return step(batch, *[0] * min(extra, 2))


@contextmanager
def _silent(module: LightningModule) -> Iterator[None]:
    """Replace ``log`` and ``log_dict``, which need a running loop."""
    own: dict[str, Any] = {name: vars(module)[name] for name in ("log", "log_dict") if name in vars(module)}
    module.log = module.log_dict = _ignore  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.log, module.log_dict
        vars(module).update(own)


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Log nothing."""


def first_batch(trainer: Trainer, module: LightningModule, stage: str) -> Any:
    """Return one batch of a stage as its step gets it, on the CPU, where the network still is."""
    batch = next(batches_of(trainer, module, stage, torch.device("cpu")), None)
    if batch is None:
        raise LightningMMError(
            f"the {stage} loader is empty; FrozenBackboneAdapter needs one batch to capture how the network is called"
        )
    return batch


def batches_of(trainer: Trainer, module: LightningModule, stage: str, device: torch.device) -> Iterator[Any]:
    """Iterate over the batches of a stage as its step gets them, whether the module or the data module has the loader.

    The random generators of the loaders are reset to their states at the end.
    """
    # Lightning gives no public access to loaders before the loop is set up, but the optimizer needs the adapter earlier
    source = {
        "fit": trainer.fit_loop._data_source,
        "validate": trainer.validate_loop._data_source,
        "test": trainer.test_loop._data_source,
        "predict": trainer.predict_loop._data_source,
    }[stage]
    loader = source.dataloader()
    if isinstance(loader, CombinedLoader) or not isinstance(loader, (dict, list, tuple)):
        combined = loader
    else:  # as the loops do: in parallel in fit, one after the other elsewhere
        combined = CombinedLoader(loader, "max_size_cycle" if stage == "fit" else "sequential")
    flat = combined.flattened if isinstance(combined, CombinedLoader) else [combined]
    generators = {id(one): one for each in flat for one in _generators(each)}.values()
    states = [generator.get_state() for generator in generators]
    try:
        for item in combined:
            batch = item[0] if isinstance(combined, CombinedLoader) else item  # (batch, its index, the loader's index)
            # runs the transfer hooks of the module
            yield module._apply_batch_transfer_handler(batch, device=device, dataloader_idx=0)
    finally:
        for generator, state in zip(generators, states):
            generator.set_state(state)


def _generators(loader: Any) -> Iterator[torch.Generator]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    for part in (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            yield generator
