"""Modulation of layer outputs in place instead of in a copy; one switch, :data:`ENABLED`, turns it off.

An output is modified in place if it is new memory that nothing else refers to. In training this halves the features
that are stored for the backward pass: the gradient of a scale needs the output of the layer, which is recovered as
``(after - shift) / scale`` from the modulated one, and the network stores that one for its own gradient anyway.
``experiments/benchmarks/adapters.py`` measures what the switch saves in time and memory.
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
"""Whether outputs are modified in place; read in every call."""
MAX_DISTANCE = 0.75
"""Scales up to this distance from 1 are divided by; dividing by smaller ones would amplify rounding errors."""
OWN_REFERENCES = 2
"""References to a tensor that :meth:`Outputs.left_alone` counts if there are no others: its variable and the count."""


def may_overwrite(module: nn.Module, output: Any, site: Site, invertible: bool) -> bool:
    """Return whether the output of a layer may be modified in place.

    Args:
        module: The layer.
        output: Its output.
        site: The description of the layer by the probe.
        invertible: Whether its bank is among the :func:`invertible_banks` of this call, as gradients require.
    """
    is_new_memory = (
        ENABLED
        and isinstance(output, Tensor)
        and known_type(module) is not None
        and "forward" not in vars(module)  # set on the object, it may return its input
        and "_conv_forward" not in vars(module)
        and len(module._forward_hooks) == 1
        and not _global_forward_hooks
    )
    if not is_new_memory or not torch.is_grad_enabled():
        return is_new_memory
    return invertible and site.left_alone and output.dtype in (torch.float32, torch.float64) and output._base is None


def invertible_banks(banks: nn.Module, rows_at_once: int) -> frozenset[nn.Module]:
    """Find the banks with a ``scale`` that can currently be divided by, with one check for all of them.

    Args:
        banks: The banks; only those with a true attribute ``invertible`` are considered.
        rows_at_once: The largest number of rows that are added up for one sample.
    """
    chosen = (bank for bank in banks.children() if getattr(bank, "invertible", False))
    scales: dict[nn.Module, Any] = {bank: bank.scale for bank in chosen}
    if not ENABLED or not scales:
        return frozenset()
    distances = torch.stack(torch._foreach_norm([scale.detach() for scale in scales.values()], torch.inf))
    bound = MAX_DISTANCE / rows_at_once
    return frozenset(bank for bank, distance in zip(scales, distances.tolist()) if distance < bound)


def modulate_in_place(features: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    """Compute ``features * scale + shift`` in the memory of the features, with or without gradients."""
    if not torch.is_grad_enabled():
        return modulate_(features, scale, shift)
    changed: Tensor = ModulateInPlace.apply(features, scale, shift)
    return changed


class ModulateInPlace(torch.autograd.Function):
    """``features * scale + shift`` in the memory of the features, with gradients.

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
    """The layer outputs of one call, recorded to find those that the network leaves alone.

    It leaves an output alone if it does not modify it in place (as ``nn.ReLU(inplace=True)`` does) and holds no
    reference to it after the call.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[str, Tensor, int]] = []

    def note(self, name: str, output: Tensor) -> None:
        self._seen.append((name, output, output._version))

    def left_alone(self, returned: Any) -> set[str]:
        """Return the names of these layers, after a call that returned ``returned``."""
        storages = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(returned) if isinstance(leaf, Tensor)}
        names, touched = {name for name, _, _ in self._seen}, set()
        while self._seen:
            name, output, version = self._seen.pop()
            alone = sys.getrefcount(output) <= OWN_REFERENCES and output._version == version
            if not alone or output.untyped_storage().data_ptr() in storages:
                touched.add(name)
        return names - touched
