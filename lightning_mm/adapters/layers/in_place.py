"""Outputs of layers that are overwritten instead of copied: one switch, :data:`ENABLED`, turns all of it off.

An output is overwritten where it is new memory that nobody else has. In training this halves the features that are
kept for the gradient: the gradient of a scale needs the output of the layer, and ``(after - shift) / scale`` tells it
from the modulated one, which the network keeps for its own gradient anyway.
``experiments/benchmarks/adapters.py`` shows what the switch brings in time and memory.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _global_forward_hooks
from torch.utils._pytree import tree_leaves

from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.modulate import gradients, modulate_
from lightning_mm.adapters.layers.types import known_type

ENABLED = True
"""Whether anything is overwritten; read in every call."""
FARTHEST = 0.75
"""Scales up to this far from 1 are divided by; smaller ones would make much of the rounding of what is divided."""
HELD_HERE = 2
"""References to a tensor that :meth:`Outputs.left_alone` counts if nobody else has one: its own, and the count's."""


def may_overwrite(module: nn.Module, output: Any, site: Site, invertible: bool) -> bool:
    """Whether the output of a layer may be overwritten.

    Args:
        module: The layer.
        output: Its output.
        site: What the probe saw of it.
        invertible: Whether its bank is among the :func:`invertible_banks` of this call, which gradients need.
    """
    is_own = (
        ENABLED
        and isinstance(output, Tensor)
        and known_type(module) is not None
        and len(module._forward_hooks) == 1
        and not _global_forward_hooks
    )
    if not is_own or not torch.is_grad_enabled():
        return is_own
    return invertible and site.left_alone and output.dtype in (torch.float32, torch.float64) and output._base is None


def invertible_banks(banks: nn.Module, rows_at_once: int) -> frozenset[nn.Module]:
    """The banks whose ``scale``, as it is now, can be divided by; one look for all of them.

    Args:
        banks: Those with an attribute ``invertible`` take part.
        rows_at_once: How many rows of a table a sample adds up at most.
    """
    chosen = (bank for bank in banks.children() if getattr(bank, "invertible", False))
    scales: dict[nn.Module, Any] = {bank: bank.scale for bank in chosen}
    if not ENABLED or not scales:
        return frozenset()
    farthest = torch.stack(torch._foreach_norm([scale.detach() for scale in scales.values()], torch.inf))
    bound = FARTHEST / rows_at_once
    return frozenset(bank for bank, far in zip(scales, farthest.tolist()) if far < bound)


def modulate_in_place(features: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """``features * scale + shift`` in the memory of the features, with or without gradients."""
    if not torch.is_grad_enabled():
        return modulate_(features, scale, shift)
    changed: Tensor = ModulateInPlace.apply(features, scale, shift)
    return changed


class ModulateInPlace(torch.autograd.Function):
    """``features * scale + shift`` in the memory of the features.

    ``sum(gradient * before) = (sum(gradient * after) - shift * sum(gradient)) / scale``, for scales away from zero.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
        ctx.mark_dirty(modulate_(features, scale, shift))
        ctx.save_for_backward(features, scale, shift)
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        after, scale, shift = ctx.saved_tensors
        needs = (ctx.needs_input_grad[0], True, shift is not None)
        of_features, of_scale, of_shift = gradients(gradient, after, scale, needs)
        assert of_scale is not None
        if of_shift is not None:
            of_scale = of_scale - shift * of_shift
        return of_features, of_scale / scale, of_shift


class Outputs:
    """Outputs of layers in one call, to tell whether the network leaves them as they are.

    It does if nothing changes them in place (``nn.ReLU(inplace=True)`` does) and nobody has them when the call is over.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[str, Tensor, int]] = []

    def note(self, name: str, output: Tensor) -> None:
        self._seen.append((name, output, output._version))

    def left_alone(self, returned: Any) -> set[str]:
        """The names of those layers, after a call that has ``returned`` this."""
        storages = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(returned) if isinstance(leaf, Tensor)}
        names, touched = {name for name, _, _ in self._seen}, set()
        while self._seen:
            name, output, version = self._seen.pop()
            alone = sys.getrefcount(output) <= HELD_HERE and output._version == version
            if not alone or output.untyped_storage().data_ptr() in storages:
                touched.add(name)
        return names - touched
