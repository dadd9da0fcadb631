"""``features * scale + shift`` and its gradients, in as few passes over the features as torch has kernels for.

On feature maps and sequences with channels first, a scale and a shift per sample and channel are what a batch norm in
eval mode does with samples and channels as one axis; its backward pass makes all three gradients in one kernel. The
kernels of sums and products work on several numbers at once where one operand repeats along the last axis, but not
where two do.

Shapes: features ``[..., B or B*T, ..., C, ...]``; scale and shift broadcast with them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def modulated(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """In new memory, without gradients."""
    if repeats_along_the_last_axis(scale, features):
        return torch.mul(features, scale).add_(shift)
    return torch.addcmul(shift, features, scale)


def modulate_(features: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """In the memory of the features, without gradients."""
    if shift is None:
        return features.mul_(scale)
    if repeats_along_the_last_axis(scale, features):
        return features.mul_(scale).add_(shift)
    return torch.addcmul(shift, features, scale, out=features)


def repeats_along_the_last_axis(scale: Tensor, features: Tensor) -> bool:
    """Whether one number of the scale goes with many that lie beside each other."""
    return scale.shape[-1] == 1 and features.stride(-1) == 1


class Modulate(torch.autograd.Function):
    """``features * scale + shift``, its backward pass with half the work of addcmul's."""

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
    """``gradient * scale``, the sums of ``gradient * features``, and those of ``gradient``, as far as needed."""
    if needs[1] and needs[2] and _channels_first(gradient, features, scale):
        return _as_batch_norm(gradient, features, scale, needs[0])
    of_features = of_scale = of_shift = spare = None
    if needs[1]:
        product = gradient * features
        of_scale = product.sum_to_size(scale.shape)
        # its memory serves again once it is summed: fresh memory costs more than the multiplication
        spare = product if scale.shape != product.shape else None
    if needs[2]:
        of_shift = gradient.sum_to_size(scale.shape)
    if needs[0]:
        of_features = gradient * scale if spare is None else torch.mul(gradient, scale, out=spare)
    return of_features, of_scale, of_shift


def _channels_first(gradient: Tensor, features: Tensor, scale: Tensor) -> bool:
    """Whether they are ``[B, C, ...]`` in one piece, on the CPU, with a scale ``[B or 1, C, 1, ...]``."""
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
    found = torch.ops.aten.native_batch_norm_backward(
        gradient.view(shape), features.view(shape), weight, zeros, torch.ones_like(weight), None, None, False, 0.0,
        [of_features, True, True],
    )  # fmt: skip
    of_scale, of_shift = found[1].view(scale.shape), found[2].view(scale.shape)
    return found[0].view(features.shape) if of_features else None, of_scale, of_shift
