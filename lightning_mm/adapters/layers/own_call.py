"""What changes the call of a layer besides its type and its weights, so that they alone do not decide its output."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_mm.adapters.layers.foreign import own_tensors, role_of
from lightning_mm.adapters.layers.types import known_type

_ON_THE_OBJECT = ("forward", "_conv_forward", "_call_impl", "__call__")
_IN_THE_CLASS = ("__call__", "_call_impl", "_conv_forward", "_output_padding", "weight", "bias")


def own_call(module: nn.Module) -> str | None:
    """Return why the weights of a layer alone do not decide its output, or None if nothing is known to.

    A subclass that overrides ``forward`` is not considered; a trial at the start shows what it does.

    Args:
        module: A layer without hooks of an adapter.
    """
    own = [name for name in _ON_THE_OBJECT if name in vars(module)]
    if own:
        return f"it has its own `{own[0]}`, set on the object (as accelerate and quantisers do)"
    if module._forward_hooks or module._forward_pre_hooks:
        hooks: list[Any] = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        return f"it has hooks besides those of the adapter ({getattr(hooks[0], '__name__', type(hooks[0]).__name__)})"
    if role_of(module) in ("norm", "norm_plus_one") and "bias" not in own_tensors(module):
        return f"{type(module).__name__} has no bias"
    holder = weight_holder(module)
    known = known_type(holder)
    if known is None:
        return None
    other = [name for name in _IN_THE_CLASS if getattr(type(holder), name, None) is not getattr(known, name, None)]
    if other:
        return f"{type(holder).__name__} has its own `{other[0]}`"
    if "weight" not in holder._parameters:
        return "its `weight` is not a parameter"
    return None


def weight_holder(module: nn.Module) -> nn.Module:
    """Return the module whose weight makes the output: the layer, or the output projection of attention."""
    return module.out_proj if isinstance(module, nn.MultiheadAttention) else module
