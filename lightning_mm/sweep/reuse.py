"""Run modules once for all combinations of a batch in which they get the same input.

While a sweep runs, some modules (see :mod:`lightning_mm.sweep.repeated`) have a ``forward`` that compares its
arguments with earlier ones, value by value, and returns a copy of the earlier output if they are equal. Hooks of the
module run in every call; only its ``forward`` does not. Other threads that call the module are not affected.

What is kept is of one batch, except for inputs with equal rows: those of a fill, which later batches have as well. The
first later batch runs these again and compares, since a network may set something on a module that differs from batch
to batch.

Shapes: B samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.tracing import tracing
from lightning_mm.tree import Path, leaves_of, map_tensors

Forward = Callable[..., Any]
Leaves = list[tuple[Path, Any]]
PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device)
"""Types of values other than tensors that can be compared."""


@dataclass
class Kept:
    """One call of a module.

    Args:
        leaves: Copies of the leaves of its arguments.
        output: A copy of its output.
        constant: Whether all rows of its inputs are equal.
        used: Whether the current batch had this call.
        valid: Whether the output is known to be that of the current batch.
        compared: Whether it was the same in a later batch than its own.
    """

    leaves: Leaves
    output: Any
    constant: bool
    used: bool = True
    valid: bool = True
    compared: bool = False


class Memory:
    """The kept calls of all modules in one sweep.

    Args:
        most: The most calls that are kept of each module.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: dict[nn.Module, list[Kept]] = {}

    def end_batch(self) -> None:
        """Drop the calls of the batch, except those that the next batch is likely to have as well."""
        for module, calls in self._kept.items():
            self._kept[module] = [one for one in calls if one.constant and one.used]
            for one in self._kept[module]:
                one.used, one.valid = False, one.compared

    @contextmanager
    def used_by(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Let modules look up their calls here, in the current thread."""
        token = _MEMORY.set(self)
        try:
            with replaced_forwards(modules, Reusing):
                yield
        finally:
            _MEMORY.reset(token)

    def output(self, module: nn.Module, call: Call, forward: Forward) -> Any:
        """Return the output of a call, from an earlier call with equal arguments if there was one."""
        calls, leaves = self._kept.setdefault(module, []), leaves_of(call)
        for one in calls:
            if same_values(one.leaves, leaves):
                one.used = True
                return copied(one.output) if one.valid else _compared(one, forward(*call[0], **call[1]))
        if len(calls) >= self.most or not comparable(leaves):
            return forward(*call[0], **call[1])
        given = copied(leaves)
        output = forward(*call[0], **call[1])
        # a module that changes its inputs in place would have to do so in every combination
        if comparable(leaves_of(output)) and same_values(given, leaves_of(call)):
            calls.append(Kept(given, copied(output), _has_equal_rows(given)))
        return output


_MEMORY: ContextVar[Memory | None] = ContextVar("lightning_mm_sweep", default=None)


class Replacement:
    """A ``forward`` that is set on a module for a while."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.forward = module, module.forward
        self.__signature__ = inspect.signature(module.forward)


class Reusing(Replacement):
    """Looks the output up in the memory of the current thread, if there is one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        memory = None if tracing() or torch.is_grad_enabled() else _MEMORY.get()
        if memory is None:
            return self.forward(*args, **kwargs)
        return memory.output(self.module, (args, kwargs), self.forward)


@contextmanager
def replaced_forwards(modules: Iterable[nn.Module], make: Callable[[nn.Module], Replacement]) -> Iterator[None]:
    """Set another ``forward`` on modules for a while."""
    with ExitStack() as stack:
        for module in modules:
            made, before = make(module), vars(module).get("forward")
            vars(module)["forward"] = made
            if before is None:
                stack.callback(vars(module).pop, "forward", None)
            else:
                stack.callback(vars(module).update, forward=before)
        yield


def comparable(leaves: Leaves) -> bool:
    """Return whether leaves are nothing but dense tensors and plain values, at least one tensor among them."""
    return any(isinstance(leaf, Tensor) for _, leaf in leaves) and all(
        type(leaf) in PLAIN
        or (type(leaf) in (Tensor, nn.Parameter) and leaf.layout == torch.strided and not leaf.is_nested)
        for _, leaf in leaves
    )


def same_values(ours: Leaves, theirs: Leaves) -> bool:
    """Return whether two nests of comparable leaves are equal, value by value."""
    return len(ours) == len(theirs) and all(
        path == place and _same(a, b) for (path, a), (place, b) in zip(ours, theirs)
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        form = (one.dtype, one.shape, one.device)
        return form == (other.dtype, other.shape, other.device) and torch.equal(one, other)
    return type(one) is type(other) and type(one) in PLAIN and bool(one == other)


def copied(nest: Any) -> Any:
    """Copy the tensors of a nest; one that occurs twice stays one tensor."""
    copies: dict[int, Tensor] = {}

    def copy(leaf: Tensor) -> Tensor:
        if id(leaf) not in copies:
            copies[id(leaf)] = leaf.clone()
        return copies[id(leaf)]

    return map_tensors(nest, copy)


def _compared(kept: Kept, output: Any) -> Any:
    """Return the output of a call in this batch, and note whether it is that of an earlier batch."""
    kept.compared = same_values(leaves_of(kept.output), leaves_of(output))
    kept.constant, kept.valid = kept.compared, True
    kept.output = copied(output)
    return output


def _has_equal_rows(leaves: Leaves) -> bool:
    return all(bool((leaf == leaf[:1]).all()) for _, leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim)
