"""Capture how a LightningModule calls its network on one batch, without running the network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
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
    """Replace what needs a running loop: logging, and the optimizers of a module that optimizes by itself."""
    idle: dict[str, Any] = {"log": _ignore, "log_dict": _ignore}
    if not module.automatic_optimization:
        made = cache(lambda: [[Idle(one) for one in several] for several in _configured(module)])
        idle["optimizers"] = lambda use_pl_optimizer=True: _one_or_all(made()[0])
        idle["lr_schedulers"] = lambda: _one_or_all(made()[1]) or None
        idle |= dict.fromkeys(("manual_backward", "toggle_optimizer", "untoggle_optimizer", "clip_gradients"), _ignore)
    own = {name: vars(module)[name] for name in idle if name in vars(module)}
    vars(module).update(idle)
    try:
        yield
    finally:
        for name in idle:
            del vars(module)[name]
        vars(module).update(own)


class Idle:
    """An optimizer or a schedule that changes nothing: for a step that runs before the trainer has its own.

    Args:
        real: What its attributes are read from.
    """

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def step(self, closure: Callable[[], Any] | None = None, *args: Any, **kwargs: Any) -> Any:
        return closure() if callable(closure) else None

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Leave gradients as they are."""

    def toggle_model(self, *args: Any, **kwargs: Any) -> AbstractContextManager[None]:
        return nullcontext()


def _configured(module: LightningModule) -> tuple[list[Any], list[Any]]:
    """The optimizers and the schedules that a module configures, of its own making."""
    optimizers, schedules = _init_optimizers_and_lr_schedulers(module)
    return list(optimizers), [config.scheduler for config in schedules]


def _one_or_all(several: list[Any]) -> Any:
    """As Lightning returns them: a single one without its list."""
    return several[0] if len(several) == 1 else several


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Do nothing while a step runs outside of its loop."""


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
