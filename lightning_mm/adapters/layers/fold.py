"""Fold a scale and a shift per channel, or a change of the weight, into the weights of a layer, at no extra cost.

Weights in half precision are rounded once, so that small changes have an effect, see :mod:`.half`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_mm.adapters.layers.foreign import Role, role_of
from lightning_mm.adapters.layers.half import wide
from lightning_mm.adapters.layers.own_call import weight_holder
from lightning_mm.adapters.layers.types import Convolution, Normalisation, Transposed
from lightning_mm.errors import LightningMMError


@torch.no_grad()
def fold_scale_shift(
    module: nn.Module, scale: Float[Tensor, " channel"] | None, shift: Float[Tensor, " channel"] | None
) -> None:
    """Change ``module`` so that it outputs ``old_output * scale + shift``; None is a scale of 1 or a shift of 0.

    The parameters are replaced, not modified in place: weights shared with another layer do not change there.

    Args:
        module: Linear, Conv, ConvTranspose, BatchNorm, InstanceNorm, LayerNorm, GroupNorm or MultiheadAttention.
        scale: Per channel, ``[C]``.
        shift: Per channel, ``[C]``.

    Raises:
        LightningMMError: If the layer cannot hold a scale or a shift, or its weights are parametrised.
    """
    module = weight_holder(module)
    refuse_parametrised(module)
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    role = role_of(module)
    if role is None and not isinstance(module, (nn.Linear, *Convolution, *Normalisation)):
        raise LightningMMError(
            f"a scale and shift cannot be folded into a {type(module).__name__}; keep the hooks instead"
        )
    if shift is not None and (isinstance(module, nn.RMSNorm) or (role is not None and bias is None)):
        name = type(module).__name__
        raise LightningMMError(f"{name} has no bias, so a shift cannot be folded into it; keep the hooks instead")
    if scale is not None:
        _replace(module, "weight", _scaled(module, weight, scale, role), like=weight)
        bias = None if bias is None else wide(bias) * scale
    if shift is not None:
        bias = shift if bias is None else wide(bias) + shift
    if bias is not None:
        if isinstance(module, Normalisation) and module.weight is None:  # a norm cannot have a bias without a weight
            _replace(module, "weight", torch.ones_like(bias), like=None)
        _replace(module, "bias", bias, like=weight)


def _scaled(
    module: nn.Module, weight: Float[Tensor, " *weight"] | None, scale: Float[Tensor, " channel"], role: Role | None
) -> Float[Tensor, " *weight"]:
    """Scale the output channels of a layer's weight."""
    if weight is None:  # a norm layer without a weight
        return scale.clone()
    if role == "transposed":
        return wide(weight) * scale
    if role == "norm_plus_one":
        return (wide(weight) + 1) * scale - 1
    if isinstance(module, Transposed):
        # weight is [in, out / groups, ...]: the output channels of group g belong to the g-th block of input channels
        per_group = scale.view(module.groups, 1, -1).expand(-1, weight.shape[0] // module.groups, -1)
        return wide(weight) * per_group.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.ndim - 2))
    return wide(weight) * scale.view(-1, *[1] * (weight.ndim - 1))


def _replace(module: nn.Module, name: str, value: Tensor, like: Tensor | None) -> None:
    """Set a new parameter, so that weights shared with another layer do not change there."""
    value = value if like is None else value.to(like.dtype)
    if name in module._buffers:  # a frozen norm of another library
        module._buffers[name] = value
        return
    if name not in module._parameters and hasattr(module, name):
        raise LightningMMError(f"the {name} of {type(module).__name__} is not a parameter; keep the hooks instead")
    module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    for flag in ("affine", "elementwise_affine"):
        if hasattr(module, flag):
            setattr(module, flag, True)


@torch.no_grad()
def fold_input_scale(module: nn.Module, scale: Float[Tensor, " channel"]) -> None:
    """Change ``module`` so that it outputs what it did for ``input * scale``, per input channel ``[C_in]``.

    Raises:
        LightningMMError: If it is not a linear or convolution layer with groups=1, or its weights are parametrised.
    """
    refuse_parametrised(module)
    role = role_of(module)
    known = role in ("linear", "transposed") or isinstance(module, (nn.Linear, *Convolution))
    if not known or getattr(module, "groups", 1) != 1:
        kind = type(module).__name__
        raise LightningMMError(f"an input scale cannot be folded into a {kind}; keep the hooks instead")
    axis = 0 if role == "transposed" or isinstance(module, Transposed) else 1
    weight = module.weight
    assert isinstance(weight, Tensor)
    shape = [len(scale) if i == axis else 1 for i in range(weight.ndim)]
    _replace(module, "weight", wide(weight) * scale.view(shape), like=weight)


@torch.no_grad()
def fold_affine_change(
    module: nn.Module, weight: Float[Tensor, " channel"] | None, bias: Float[Tensor, " channel"] | None
) -> None:
    """Add to the weight and the bias of a norm layer.

    Raises:
        LightningMMError: If its weights are parametrised.
    """
    refuse_parametrised(module)
    for name, change in (("weight", weight), ("bias", bias)):
        old = getattr(module, name, None)
        if change is not None and old is not None:
            _replace(module, name, wide(old) + change, like=old)


@torch.no_grad()
def fold_weight_change(module: nn.Module, change: Float[Tensor, " *weight"]) -> None:
    """Add ``change`` to the weight of ``module``, as a new parameter; a weight ``[in, out]`` gets it transposed.

    Raises:
        LightningMMError: If its weights are parametrised.
    """
    refuse_parametrised(module)
    weight = module.weight
    assert isinstance(weight, Tensor)
    change = change.mT if role_of(module) == "transposed" else change
    _replace(module, "weight", wide(weight) + change, like=weight)


def refuse_parametrised(module: nn.Module) -> None:
    """Raise a LightningMMError if the weights of a layer are parametrised."""
    old_style = {"weight_g", "weight_orig"} & set(module._parameters)  # torch.nn.utils.weight_norm, spectral_norm
    if parametrize.is_parametrized(module) or old_style:
        raise LightningMMError(
            f"{type(module).__name__} has parametrised weights (weight or spectral norm) and cannot be folded; "
            "call torch.nn.utils.parametrize.remove_parametrizations on it first"
        )
