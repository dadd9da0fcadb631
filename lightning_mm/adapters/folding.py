"""Write a scale and a shift per channel, or a change of the weight, into the weights of a layer: they cost nothing."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_mm.adapters.layers import Convolution, Normalisation, Transposed
from lightning_mm.errors import LightningMMError


@torch.no_grad()
def fold_scale_shift(module: nn.Module, scale: Float[Tensor, " channel"], shift: Float[Tensor, " channel"]) -> None:
    """Change ``module`` so that it puts out ``old_output * scale + shift``.

    The parameters are replaced, not written to: weights that the layer shares with another one stay as they are there.

    Args:
        module: Linear, Conv, ConvTranspose, BatchNorm, InstanceNorm, LayerNorm, GroupNorm or MultiheadAttention.
        scale: Per channel, ``[C]``.
        shift: Per channel, ``[C]``.

    Raises:
        LightningMMError: If the layer has no place for a scale or a shift, or its weights are parametrised.
    """
    if isinstance(module, nn.MultiheadAttention):
        module = module.out_proj
    _refuse_parametrised(module)
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(module, Transposed):
        assert isinstance(weight, Tensor)
        # weight is [in, out / groups, ...]: the output channels of group g belong to the g-th block of input channels
        per_group = scale.view(module.groups, 1, -1).expand(-1, weight.shape[0] // module.groups, -1)
        factor = per_group.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.ndim - 2))
        new_weight = weight * factor
    elif isinstance(module, (nn.Linear, *Convolution)):
        assert isinstance(weight, Tensor)
        new_weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    elif isinstance(module, nn.RMSNorm):
        raise LightningMMError("RMSNorm has no bias, so a shift cannot be folded into it; keep the hooks instead")
    elif isinstance(module, Normalisation):
        new_weight = scale.clone() if weight is None else weight * scale
    else:
        raise LightningMMError(f"{type(module).__name__} cannot take a folded scale and shift; keep the hooks instead")
    reference = weight if isinstance(weight, Tensor) else scale
    new_bias = shift if bias is None else bias * scale + shift
    module.register_parameter("weight", nn.Parameter(new_weight.to(reference.dtype), requires_grad=False))
    module.register_parameter("bias", nn.Parameter(new_bias.to(reference.dtype), requires_grad=False))
    for flag in ("affine", "elementwise_affine"):
        if hasattr(module, flag):
            setattr(module, flag, True)


@torch.no_grad()
def fold_weight_change(module: nn.Module, change: Float[Tensor, " *weight"]) -> None:
    """Add ``change`` to the weight of ``module``, as a new parameter.

    Raises:
        LightningMMError: If its weights are parametrised.
    """
    _refuse_parametrised(module)
    weight = module.weight
    assert isinstance(weight, Tensor)
    module.register_parameter("weight", nn.Parameter((weight + change).to(weight.dtype), requires_grad=False))


def _refuse_parametrised(module: nn.Module) -> None:
    old_style = {"weight_g", "weight_orig"} & set(module._parameters)  # torch.nn.utils.weight_norm, spectral_norm
    if parametrize.is_parametrized(module) or old_style:
        raise LightningMMError(
            f"{type(module).__name__} has parametrised weights (weight or spectral norm) and cannot take a fold; "
            "call torch.nn.utils.parametrize.remove_parametrizations on it first"
        )
