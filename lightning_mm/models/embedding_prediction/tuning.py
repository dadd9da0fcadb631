"""Few parameters that tune a frozen encoder: biases, a scale and a shift per channel, or low-rank factors.

The kinds of :mod:`lightning_mm.adapters` hold a row per incomplete combination and leave the complete one as it is.
Here one change holds for all samples, so it is a change of the weights themselves, ready to be folded in.

Shapes: C channels of a layer's output, R rank.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_mm.errors import LightningMMError, check_choice, check_whole

Peft = Literal["none", "bitfit", "ssf", "lora"]
KINDS = ("none", "bitfit", "ssf", "lora")
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class _Scaled(nn.Module):
    """``s * weight`` per channel of the output; one at the start."""

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale.view(-1, *[1] * (weight.ndim - 1))


class _ScaledAndShifted(nn.Module):
    """``s * bias + t``; the bias at the start."""

    def __init__(self, scale: nn.Parameter) -> None:
        super().__init__()
        self.scale, self.shift = scale, nn.Parameter(torch.zeros_like(scale))

    def forward(self, bias: Tensor) -> Tensor:
        return bias * self.scale + self.shift


class _LowRank(nn.Module):
    """``weight + up @ down``; ``up`` is zero at the start."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        inputs = weight[0].numel()
        bound = 1 / math.sqrt(inputs)  # as torch initialises a layer
        self.down = nn.Parameter(weight.new_empty(rank, inputs).uniform_(-bound, bound))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def tune(encoders: nn.Module, kind: str, rank: int = 4) -> list[nn.Parameter]:
    """Freeze encoders but for the parameters of a kind, and return these; outputs do not change at the start.

    Args:
        encoders: Changed in place: layers get parametrisations (``torch.nn.utils.parametrize``) for ``ssf``, ``lora``.
        kind: ``none``; ``bitfit``: the biases of all layers (Ben Zaken et al., ACL 2022); ``ssf``: a scale and a shift
            of the output of every linear, convolution and norm layer that has a bias (Lian et al., NeurIPS 2022);
            ``lora``: low-rank factors of every linear and convolution layer (Hu et al., ICLR 2022).
        rank: Of ``lora``.

    Raises:
        LightningMMError: If the kind is unknown, or no layer has what it changes.
    """
    check_choice("peft", kind, KINDS)
    check_whole("rank", rank, 1)
    encoders.requires_grad_(False)
    found: list[nn.Parameter] = []
    for module in list(encoders.modules()):
        if kind == "none" or not isinstance(module, _LAYERS):
            continue
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if kind == "bitfit" and bias is not None:
            found.append(bias.requires_grad_(True))
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        if kind == "ssf" and weight is not None and bias is not None and not transposed:
            scale = nn.Parameter(torch.ones_like(bias))
            parametrize.register_parametrization(module, "weight", _Scaled(scale))
            shifted = _ScaledAndShifted(scale)
            parametrize.register_parametrization(module, "bias", shifted)
            found += [scale, shifted.shift]
        if kind == "lora" and weight is not None and isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            factors = _LowRank(weight, rank)
            parametrize.register_parametrization(module, "weight", factors)
            found += [factors.down, factors.up]
    if not found and kind != "none":
        what = "linear or convolution layer" if kind == "lora" else "layer with a bias"
        raise LightningMMError(f"peft: {kind} changes no layer: the encoders have no {what}; set it to none")
    return found


def fold_tuning(encoders: nn.Module) -> None:
    """Put the changes of ``ssf`` and ``lora`` into the weights and drop their parameters; outputs do not change."""
    for module in list(encoders.modules()):
        if parametrize.is_parametrized(module):
            # The class that torch made for this layer loses its properties; copies of the layer have the same class.
            shared: Any = type(module)
            module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
