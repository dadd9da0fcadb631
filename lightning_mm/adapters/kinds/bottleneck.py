"""A small network after a layer: ``h + up(activation(down(h)))``, with separate weights for each combination.

Reference: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, section 2.1.

Shapes: B samples, K rows of the basis, S rows that a sample uses, C channels, R width of the bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.kinds.base import Bank, Kind, chosen_by_pattern
from lightning_mm.adapters.layers.half import plus
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.types import Convolution
from lightning_mm.adapters.tracing import full_precision
from lightning_mm.errors import LightningMMError, check_choice, check_whole

Activation = Literal["gelu", "relu", "silu"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


class BottleneckBank(Bank):
    """``K`` rows of two layers: ``down [K, R, C]``, ``[K, R]``, and ``up [K, R, C]``, ``[K, C]``, initially zero.

    If a sample uses several rows, the outputs of their networks are added.
    """

    foldable = False

    def __init__(self, rows: int, channels: int, width: int, activation: Activation) -> None:
        super().__init__()
        bound = 1 / math.sqrt(channels)
        self.activation = activation
        self.down = nn.Parameter(torch.empty(rows, width, channels).uniform_(-bound, bound))
        self.down_bias = nn.Parameter(torch.zeros(rows, width))
        self.up = nn.Parameter(torch.zeros(rows, width, channels))
        self.up_bias = nn.Parameter(torch.zeros(rows, channels))

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *output"]:
        layout = call.site.layout(output)
        with full_precision(output.device.type):
            down, down_bias, up = (
                call.gather(table.float()).flatten(1, 2).to(output.dtype)
                for table in (self.down, self.down_bias, self.up)
            )
            up_bias = call.mix(self.up_bias).to(output.dtype)
            x = layout.channels_last(output, call.route.shape[0])  # [B, T, ..., C]
            hidden = torch.baddbmm(down_bias.unsqueeze(1), x.flatten(1, -2), down.mT)
            change = torch.baddbmm(up_bias.unsqueeze(1), _ACTIVATIONS[self.activation](hidden), up)
            return plus(output, layout.channels_back(change.view(x.shape)))

    def fold(self, call: LayerCall) -> None:
        raise LightningMMError("a bottleneck is not a change of weights and cannot be folded; keep the hooks instead")


class Bottleneck(Kind):
    """A bottleneck after linear, convolution and attention layers; identity at the start, cannot be folded.

    Args:
        width: R, the width of the bottleneck.
        activation: ``gelu``, ``relu`` or ``silu``.
        layers: Names or patterns of the layers to adapt, e.g. ``["*self_attn", "*linear2"]`` for the two positions used
            in the paper; default: all layers of these types.

    Raises:
        LightningMMError: If a setting is invalid; later, if a pattern matches no layer of the network.
    """

    targets = (nn.Linear, *Convolution, nn.MultiheadAttention)

    def __init__(self, width: int = 4, activation: Activation = "gelu", layers: list[str] | None = None) -> None:
        check_whole("Bottleneck: width", width, 1)
        check_choice("Bottleneck: activation", activation, _ACTIVATIONS)
        self.width, self.activation, self.layers = width, activation, layers

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        return {name: {} for name in chosen_by_pattern(self, network, self.layers)}, {}

    def bank(self, site: Site, rows: int) -> BottleneckBank:
        return BottleneckBank(rows, site.channels, self.width, self.activation)
