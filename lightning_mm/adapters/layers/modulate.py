"""``features * scale + shift`` and its gradients, in as few passes over the features as the kernels of torch allow.

On feature maps and sequences with channels first, a scale and a shift per sample and channel equal a batch norm in eval
mode with samples and channels merged into one axis, and its backward pass computes all three gradients in one kernel.
Kernels of sums and products are vectorised if one operand is broadcast along the last axis, but not if two are.

Shapes: features ``[..., B or B*T, ..., C, ...]``; scale and shift broadcast with them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def modulated(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute ``features * scale + shift`` in new memory, without gradients."""
    if repeats_along_the_last_axis(scale, features):
        return torch.mul(features, scale).add_(shift)
    return torch.addcmul(shift, features, scale)


def modulate_(features: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """Compute ``features * scale + shift`` in the memory of the features, without gradients."""
    if shift is None:
        return features.mul_(scale)
    if repeats_along_the_last_axis(scale, features):
        return features.mul_(scale).add_(shift)
    return torch.addcmul(shift, features, scale, out=features)


def repeats_along_the_last_axis(scale: Tensor, features: Tensor) -> bool:
    """Return whether the scale is broadcast along the last axis of contiguous features."""
    return scale.shape[-1] == 1 and features.stride(-1) == 1


class Modulate(torch.autograd.Function):
    """``features * scale + shift`` with a backward pass that does half the work of that of ``addcmul``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(features, scale)
        return modulated(features, scale, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        features, scale = ctx.saved_tensors
        return gradients(gradient, features, scale, ctx.needs_input_grad)


def gradients(
    gradient: Tensor, features: Tensor, scale: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute ``gradient * scale`` and the sums of ``gradient * features`` and of ``gradient``, as far as needed."""
    if needs[1] and needs[2] and _channels_first(gradient, features, scale):
        return _as_batch_norm(gradient, features, scale, needs[0])
    of_features = of_scale = of_shift = spare = None
    if needs[1]:
        product = gradient * features
        of_scale = product.sum_to_size(scale.shape)
        # its memory is reused once it is summed: new memory costs more than the multiplication
        spare = product if scale.shape != product.shape else None
    if needs[2]:
        of_shift = gradient.sum_to_size(scale.shape)
    if needs[0]:
        of_features = gradient * scale if spare is None else torch.mul(gradient, scale, out=spare)
    return of_features, of_scale, of_shift


def _channels_first(gradient: Tensor, features: Tensor, scale: Tensor) -> bool:
    """Return whether they are contiguous ``[B, C, ...]`` on the CPU with a scale ``[B or 1, C, 1, ...]``."""
    return (
        features.device.type == "cpu"
        and features.dtype == gradient.dtype == scale.dtype
        and features.dtype in (torch.float32, torch.float64)
        and features.ndim > 2
        and scale.shape[:2] in (features.shape[:2], (1, features.shape[1]))
        and all(size == 1 for size in scale.shape[2:])
        and features.is_contiguous()
        and gradient.is_contiguous()
        and features.numel() > 0
    )


def _as_batch_norm(
    gradient: Tensor, features: Tensor, scale: Tensor, of_features: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    weight = scale.flatten()
    shape = (features.shape[0] * features.shape[1] // len(weight), len(weight), -1)
    zeros = torch.zeros_like(weight)
    grads = torch.ops.aten.native_batch_norm_backward(
        gradient.view(shape), features.view(shape), weight, zeros, torch.ones_like(weight), None, None, False, 0.0,
        [of_features, True, True],
    )  # fmt: skip
    of_scale, of_shift = grads[1].view(scale.shape), grads[2].view(scale.shape)
    return grads[0].view(features.shape) if of_features else None, of_scale, of_shift
