"""Lightning's callbacks that average weights, next to an adapter on a frozen base."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_mm.errors import LightningMMError

AVERAGE = "average_model_state"
"""The key of the averaged module in the saved state of StochasticWeightAveraging."""


def include_adapter(trainer: Trainer, pl_module: LightningModule, owner: Callback, stage: str) -> None:
    """Let averaging callbacks that copied the module before it had its adapter copy it again.

    Args:
        trainer: Its callbacks.
        pl_module: With its adapter.
        owner: The callback that attached the adapter, in its ``setup``.
        stage: Of this setup.

    Raises:
        LightningMMError: If StochasticWeightAveraging would reset the BatchNorm statistics of the frozen base.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if stage == "fit" and any(isinstance(part, _BatchNorm) for part in pl_module.modules()):
        for callback in callbacks:
            if isinstance(callback, StochasticWeightAveraging):
                raise LightningMMError(
                    f"{type(callback).__name__} resets the running statistics of BatchNorm, which belong to the frozen "
                    "base and would be lost; use lightning.pytorch.callbacks.WeightAveraging, which averages the "
                    "adapter and leaves them as they are"
                )
    for callback in callbacks[: callbacks.index(owner)] if owner in callbacks else []:
        if isinstance(callback, (StochasticWeightAveraging, WeightAveraging)):
            callback.setup(trainer, pl_module, stage)
        elif any(_is_copy(part, pl_module) for part in _modules_in(callback)):
            warnings.warn(
                f"{type(callback).__name__} holds a copy of {type(pl_module).__name__} from before it had its adapter, "
                f"which is missing there; in the callbacks, list {type(owner).__name__} before "
                f"{type(callback).__name__}",
                stacklevel=2,
            )


def keep_base_exact(trainer: Trainer) -> None:
    """Make averages of equal values that value: a formula such as 0.9 a + 0.1 a rounds, and changes a frozen base.

    To be called once all callbacks are set up.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        average = getattr(callback, "_average_model", None) if isinstance(callback, WeightAveraging) else None
        formula = getattr(average, "avg_fn", None)
        if formula is not None and not isinstance(formula, ExactAverage):
            average.avg_fn = ExactAverage(formula)  # type: ignore[union-attr]


class ExactAverage:
    """A formula for averages that does not round where both values are equal.

    Args:
        formula: Called with the average, the new value and the number of values so far.

    Example:
        >>> average = ExactAverage(lambda average, new, count: 0.9 * average + 0.1 * new)
        >>> value = torch.tensor([0.3, 5.0])
        >>> bool((average(value, value, torch.tensor(1)) == value).all())
        True
    """

    def __init__(self, formula: Callable[[Tensor, Tensor, Any], Tensor]) -> None:
        self.formula = formula

    def __call__(self, average: Tensor, new: Tensor, count: Any) -> Tensor:
        return torch.where(average == new, average, self.formula(average, new, count))


def without_base(checkpoint: dict[str, Any], prefix: str) -> None:
    """Remove the base from the copies of the module that averaging callbacks save, in place."""
    for holder, key in _copies(checkpoint):
        holder[key] = {name: value for name, value in holder[key].items() if not name.startswith(prefix)}


def with_base(checkpoint: dict[str, Any], prefix: str, network: nn.Module) -> None:
    """Add the base to the copies of the module in a checkpoint, in place: the reverse of :func:`without_base`."""
    for holder, key in _copies(checkpoint):
        holder[key] = {**holder[key], **{prefix + name: value for name, value in network.state_dict().items()}}


def _copies(checkpoint: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The copies of the module's state: the dicts that hold them, and their keys there."""
    if isinstance(checkpoint.get("current_model_state"), dict):
        yield checkpoint, "current_model_state"
    for state in (checkpoint.get("callbacks") or {}).values():
        if isinstance(state, dict) and isinstance(state.get(AVERAGE), dict):
            yield state, AVERAGE


def _modules_in(callback: Callback) -> Iterator[nn.Module]:
    for value in vars(callback).values():
        if isinstance(value, nn.Module):
            yield from value.modules()


def _is_copy(part: nn.Module, pl_module: LightningModule) -> bool:
    """Whether a module is a copy of another one, weights included, and lacks its adapter."""
    if type(part) is not type(pl_module) or part is pl_module or hasattr(part, "adapter"):
        return False
    own = dict(pl_module.named_parameters())
    pairs = [(value, own.get(name)) for name, value in part.named_parameters()]
    return all(two is not None and one.device == two.device and torch.equal(one, two) for one, two in pairs)
