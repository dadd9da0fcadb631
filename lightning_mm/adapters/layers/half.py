"""Changes of values in half precision that keep their step, however small.

In bfloat16 a value moves in steps of 0.4 to 0.8 %: ``h * 1.001`` rounds back to ``h`` for every h, and what an adapter
learns has no effect until it exceeds half a step. Here each value gets back digits below its precision, guessed from
its own bits: a change of a fifth of a step then moves a fifth of the values by one step, and the mean effect is right.
A change of nothing changes no bit, and no result is further than one step from the exact one. Equal values change
equally, so the result of a sample does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_mm.adapters.layers.modulate import gradients, modulate_
from lightning_mm.adapters.tracing import tracing

HALF = (torch.float16, torch.bfloat16)
_SPREAD = -25086
"""A factor that spreads the digits of neighbouring values evenly, keeps zeros and infinities, and gives no digits that
round away from the value."""


def moved(change: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """Apply a change of device or dtype, except one to half precision: then only move the tensor."""
    changed = change(tensor)
    return tensor.to(changed.device) if changed.dtype in HALF and tensor.dtype not in HALF else changed


def finer(features: Tensor) -> Tensor:
    """Return features in half precision as float32 with more digits, all of which round back to the features."""
    digits = features.view(torch.int16) * _SPREAD
    if features.dtype == torch.float16:  # which has three digits more
        digits = (digits >> 3).clamp_(min=-4095)
    exact = features.float()
    exact.view(torch.int32).add_(digits)
    return exact


def wide(tensor: Tensor) -> Tensor:
    """Return :func:`finer` for half precision, other tensors unchanged."""
    return finer(tensor) if tensor.dtype in HALF else tensor


def modulated_half(features: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """Compute ``features * scale + shift`` of features in half precision; scale and shift are float32 and broadcast."""
    if scale is None:
        assert shift is not None
        return plus(features, shift)
    if tracing():
        exact = _differentiable(features) * scale
        return (exact if shift is None else exact + shift).to(features.dtype)
    changed: Tensor = _Modulate.apply(features, scale, shift)
    return changed


def plus(features: Tensor, change: Tensor) -> Tensor:
    """Compute ``features + change``; in half precision so that small changes have an effect."""
    if features.dtype not in HALF:
        return features + change
    if tracing():
        return (_differentiable(features) + change).to(features.dtype)
    changed: Tensor = _Plus.apply(features, change)
    return changed


def _differentiable(features: Tensor) -> Tensor:
    """Return :func:`finer` with a gradient, for graphs; exported ones, which cannot read bits, get plain float32."""
    exact = features.float()
    if not torch.compiler.is_dynamo_compiling():
        return exact
    return exact + (finer(features.detach()) - exact.detach())


class _Modulate(torch.autograd.Function):
    """``features * scale + shift``, stores the features in half precision only."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
        ctx.save_for_backward(features, scale)
        return modulate_(finer(features), scale, shift).to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        features, scale = ctx.saved_tensors
        of_features, of_scale, of_shift = gradients(gradient.float(), features, scale, ctx.needs_input_grad)
        return None if of_features is None else of_features.to(gradient.dtype), of_scale, of_shift


class _Plus(torch.autograd.Function):
    """``features + change``, where the change broadcasts."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, change: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = change.shape, change.dtype
        return finer(features).add_(change).to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        of_change = gradient.to(ctx.dtype).sum_to_size(ctx.shape) if ctx.needs_input_grad[1] else None
        return gradient, of_change
