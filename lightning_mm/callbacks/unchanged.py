"""Run parts of a module outside of its loops and restore its state."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Undo = Callable[[], None]


@contextmanager
def unchanged(module: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """Restore a module, its metrics and the global random state at the end of the block.

    Buffers, modes, hooks and attributes of all modules are restored, including lists, dicts, sets and tensors in
    attributes, such as the counts of a metric. Parameters are not copied, so the block must not step an optimizer.

    Args:
        module: The module.
        device: Its random state and that of the CPU are restored.
        seed: Seed of Python, NumPy and torch in the block, so that results do not depend on earlier draws.
    """
    seen: set[int] = set()
    undo = [_keep_attributes(part, seen) for part in module.modules()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - restores the global state
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for back in undo:
            back()


def _keep_attributes(part: nn.Module, seen: set[int]) -> Undo:
    attributes, inside = dict(vars(part)), [_keep(value, seen) for value in vars(part).values()]

    def back() -> None:
        vars(part).clear()
        vars(part).update(attributes)
        for one in inside:
            one()

    return back


def _keep(value: Any, seen: set[int]) -> Undo:
    """Return a function that restores the content of a value; the object itself stays."""
    if id(value) in seen:
        return _nothing
    if isinstance(value, (Tensor, list, deque, MutableMapping, set)):
        seen.add(id(value))
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        tensor, copied = value, value.detach().clone()

        def overwrite() -> None:
            with torch.no_grad():
                if not torch.equal(tensor, copied):
                    tensor.copy_(copied)

        return overwrite
    if isinstance(value, (list, deque, MutableMapping, set)):
        held: Any = dict(value) if isinstance(value, MutableMapping) else list(value)
        inside = [_keep(item, seen) for item in (held.values() if isinstance(held, dict) else held)]
        put = value.extend if isinstance(value, (list, deque)) else value.update

        def refill() -> None:
            value.clear()
            put(held)
            for one in inside:
                one()

        return refill
    return _nothing


def _nothing() -> None:
    """Nothing to restore."""
