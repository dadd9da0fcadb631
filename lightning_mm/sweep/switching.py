"""How a task is run for one method and combination: its adapter on or off, its network told what is available."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn


def switched(task: nn.Module, disabled: bool) -> AbstractContextManager[Any]:
    """Switch the adapter of a task off, or leave it as it is."""
    adapter: Any = task.adapter if disabled else None
    return adapter.disabled() if disabled else nullcontext()


def using(task: nn.Module, available: Tensor) -> AbstractContextManager[Any]:
    """Pass ``available`` to the adapter of a network whose forward does not take it."""
    adapter: Any = getattr(task, "adapter", None)
    return adapter.using(available) if hasattr(adapter, "using") else nullcontext()


@contextmanager
def evaluating(task: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; the mode of every module before is restored, also after an exception."""
    before = [(module, module.training) for module in task.modules()]
    task.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
