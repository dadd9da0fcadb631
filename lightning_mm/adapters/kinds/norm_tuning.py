"""Weights and biases of normalisation layers: each combination has its own.

Reference: Frankle et al., "Training BatchNorm and Only BatchNorm", ICLR 2021; Basu et al., "Strong Baselines for
Parameter Efficient Few-Shot Fine-tuning" (LN-Tune), AAAI 2024.

Shapes: B samples, K rows of the basis, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.kinds.base import Bank, Kind
from lightning_mm.adapters.layers.fold import fold_affine_change
from lightning_mm.adapters.layers.foreign import normalised_by, role_of
from lightning_mm.adapters.layers.half import HALF, plus
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.types import Normalisation, acts_as, known_type
from lightning_mm.adapters.tracing import full_precision


class NormTuningBank(Bank):
    """``K`` rows of a change of the weight ``[K, C]`` and, if the layer has one, of the bias."""

    needs_input = True

    def __init__(self, rows: int, channels: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, channels))
        self.bias = nn.Parameter(torch.zeros(rows, channels)) if bias else None

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *output"]:
        """Add the normalised input times the change of the weight, and the change of the bias.

        The input is normalised a second time: it cannot be recovered from the output where the weight is zero.
        """
        layout = call.site.layout(output)
        with full_precision(output.device.type):
            if output.dtype in HALF:
                change = normalised(call.module, call.input.to(output.dtype)) * layout.place(
                    call.mix(self.weight), output
                )
                return plus(output, change if self.bias is None else change + layout.place(call.mix(self.bias), output))
            weight = layout.place(call.mix(self.weight).to(output.dtype), output)
            output = output + normalised(call.module, call.input.to(output.dtype)) * weight
            if self.bias is None:
                return output
            return output + layout.place(call.mix(self.bias).to(output.dtype), output)

    def fold(self, call: LayerCall) -> None:
        bias = None if self.bias is None else call.mix(self.bias)[0]
        fold_affine_change(call.module, call.mix(self.weight)[0], bias)


class NormTuning(Kind):
    """A change of the weights and biases of normalisation layers that have them; identity at the start.

    Layers of a subclass that overrides ``forward`` are left out.
    """

    targets = Normalisation

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        details: dict[str, dict[str, Any]] = {}
        reasons: dict[str, str] = {}
        for name, module in network.named_modules():
            if not acts_as(module, self.targets) or module.weight is None:
                continue
            if role_of(module) is None and known_type(module) is None:
                reasons[name] = f"{type(module).__name__} overrides forward, so its normalisation is unknown"
            elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) != 1:
                reasons[name] = f"it normalises over {len(module.normalized_shape)} axes and has no channel axis"
            else:
                details[name] = {"bias": getattr(module, "bias", None) is not None}
        return details, reasons

    def bank(self, site: Site, rows: int) -> NormTuningBank:
        return NormTuningBank(rows, site.channels, site.details["bias"])


def normalised(layer: nn.Module, x: Float[Tensor, " *output"]) -> Float[Tensor, " *output"]:
    """Apply a norm layer in eval mode to an input, without its weight and bias."""
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    if isinstance(layer, nn.RMSNorm):
        return F.rms_norm(x, list(layer.normalized_shape), eps=layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, eps=layer.eps)
    if not isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        return normalised_by(layer, x)
    mean, variance = layer.running_mean, layer.running_var
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
        return F.instance_norm(x, mean, variance, use_input_stats=mean is None, eps=layer.eps)
    return F.batch_norm(x, mean, variance, training=mean is None, eps=layer.eps)
