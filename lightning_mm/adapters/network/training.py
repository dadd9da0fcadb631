"""Find the modules that make a network return something else in training mode (deep supervision, auxiliary heads).

A frozen network is in eval mode, but the loss of such a network needs what it returns in training mode. The modules
that decide this follow the mode of the adapter, if nothing else in them depends on it: no dropout, no statistics.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.network.encoders import same_tensors
from lightning_mm.adapters.network.eval_mode import quiet
from lightning_mm.adapters.network.example import Example
from lightning_mm.tree import dotted, leaves_of


def deep_supervision(network: nn.Module, example: Example) -> tuple[list[str], str | None]:
    """Return the names of the modules that decide the form of the outputs in training mode.

    If the outputs differ but these modules cannot stay in training mode, there are none, and the second item is the
    reason. The network runs at most once in training mode if its outputs do not differ; it is left as it was.
    """
    candidates = {name: module for name, module in network.named_modules() if _reads_training(module)}
    if not candidates or any(parameter.is_meta for parameter in network.parameters()):
        return [], None
    with quiet(network), _unchanged(candidates.values()):

        def outputs(training: Collection[str]) -> Any:
            for name, module in candidates.items():
                module.training = name in training
            return example.run()

        expected = _form(outputs(()))
        try:
            found = _form(outputs(candidates))
        except Exception as error:  # any error of any library, such as targets that only a training step passes
            return [], f"it does not run in training mode on the example ({type(error).__name__}: {error})"
        if found == expected:
            return [], None
        chosen = list(candidates)
        for kind in dict.fromkeys(type(module) for module in candidates.values()):
            rest = [name for name in chosen if type(candidates[name]) is not kind]
            try:
                chosen = rest if _form(outputs(rest)) == found else chosen
            except Exception:  # these modules must be in the same mode
                continue
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        if not same_tensors(outputs(chosen), outputs(chosen)):
            return [], "what it returns in training mode is random (dropout, sampling)"
        if any(not torch.equal(before[name], buffer) for name, buffer in network.named_buffers()):
            return [], "it changes its buffers in training mode"
    return chosen, None


def _reads_training(module: nn.Module) -> bool:
    """Return whether a class that is not of torch reads ``self.training``."""
    types = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
    functions = (inspect.unwrap(one) for kind in types for one in vars(kind).values() if inspect.isfunction(one))
    return not type(module).__module__.startswith("torch.") and any(
        "training" in one.__code__.co_names for one in functions
    )


@contextmanager
def _unchanged(modules: Collection[nn.Module]) -> Iterator[None]:
    """Restore the buffers and attributes of some modules."""
    attributes = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    values = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    try:
        yield
    finally:
        for module, before, buffers in attributes:
            vars(module).clear()
            vars(module).update(before)
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, value in values:
            buffer.copy_(value)


def _form(outputs: Any) -> Mapping[str, Any]:
    leaves = leaves_of(outputs)
    return {
        dotted(path): (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)
        for path, leaf in leaves
    }
