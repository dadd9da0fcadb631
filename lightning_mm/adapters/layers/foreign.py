"""Layers of other libraries that are a linear layer or a norm, recognised by what they compute and not by their type.

Examples: ``Conv1D`` of transformers (a linear layer with a weight ``[in, out]``), the RMS norms of Llama, T5 and Gemma,
``FrozenBatchNorm2d`` of torchvision, whose weights are buffers.

Shapes: C channels.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

Role = Literal["linear", "transposed", "norm", "norm_plus_one"]
"""``linear``: weight ``[out, in]``; ``transposed``: weight ``[in, out]``; ``norm``: a scale per channel;
``norm_plus_one``: the weight holds the difference of the scale from one."""


def role_of(module: nn.Module) -> Role | None:
    """Return what a layer of another library is, by trial on a random input; None for others and for layers of torch.

    It has a ``weight``, perhaps a ``bias``, no other parameters and no parts, and returns one tensor.
    """
    weight = own_tensors(module).get("weight")
    is_layer = (
        not _is_of_torch(module)
        and weight is not None
        and weight.is_floating_point()
        and not weight.is_meta  # without values
        and weight.numel()
        and not module._modules
        and {name for name, parameter in module._parameters.items() if parameter is not None} <= {"weight", "bias"}
    )
    if not is_layer or weight is None or weight.ndim not in (1, 2):
        return None
    with torch.no_grad():
        if weight.ndim == 1:
            return _norm(module, weight)
        if _multiplies(module, weight, transposed=False):
            return "linear"
        return "transposed" if _multiplies(module, weight, transposed=True) else None


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that belong to a module itself, by name."""
    tensors = {**module._buffers, **module._parameters}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def with_tensors(module: nn.Module, **tensors: Tensor) -> nn.Module:
    """Return a shallow copy of a module with other tensors for some of its parameters or buffers."""
    changed = copy.copy(module)
    changed._parameters, changed._buffers = dict(module._parameters), dict(module._buffers)
    for name, tensor in tensors.items():
        if name in changed._parameters:
            changed._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        else:
            changed._buffers[name] = tensor
    return changed


def normalised_by(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a norm of another library without its weight and bias: the difference that a weight of one makes."""
    weight = own_tensors(norm)["weight"]
    bias = {"bias": torch.zeros_like(weight)} if "bias" in own_tensors(norm) else {}
    one, zero = (with_tensors(norm, weight=torch.full_like(weight, value), **bias) for value in (1.0, 0.0))
    difference: Tensor = _run(one, x) - _run(zero, x)
    return difference


def _run(module: nn.Module, x: Tensor) -> Any:
    return type(module).forward(module, x)  # without hooks


def _is_of_torch(module: nn.Module) -> bool:
    """Return whether a module is a layer of torch or of a subclass of one, which is known by its type."""
    types = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
    return any(one.__module__.partition(".")[0] == "torch" for one in types)


def _output(module: nn.Module, x: Tensor) -> Tensor | None:
    try:
        output = _run(module, x)
    except Exception:  # any error of any library: it takes another input
        return None
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def _random(*shape: int, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)


def _close(one: Tensor | None, other: Tensor) -> bool:
    if one is None or one.shape != other.shape:
        return False
    tolerance = 1e-3 if other.dtype in (torch.float32, torch.float64) else 0.05
    return torch.allclose(one.float(), other.float(), rtol=tolerance, atol=tolerance * float(other.abs().max()))


def _multiplies(module: nn.Module, weight: Tensor, transposed: bool) -> bool:
    """Return whether a module computes ``x @ weight.mT + bias``, or ``x @ weight + bias``."""
    matrix = _random(*weight.shape, like=weight)  # its own may be zero
    x = _random(2, 3, weight.shape[0 if transposed else 1], like=weight)
    expected = x @ (matrix if transposed else matrix.mT)
    bias = own_tensors(module).get("bias")
    if bias is not None and bias.shape != expected.shape[-1:]:
        return False
    return _close(_output(with_tensors(module, weight=matrix), x), expected if bias is None else expected + bias)


def _norm(module: nn.Module, weight: Tensor) -> Role | None:
    """Return which norm a module is, if its output is its normalised input times a scale per channel, plus a bias."""
    channels, other = len(weight), 3 if len(weight) != 3 else 4
    first = torch.zeros_like(weight)
    first[0] = 1
    bias = {"bias": torch.zeros_like(weight)} if "bias" in own_tensors(module) else {}
    for shape in ((2, other, channels), (2, channels, other), (2, channels, other, other)):
        x = _random(*shape, like=weight)
        values = (torch.zeros_like(weight), first, 2 * first)
        outputs = [_output(with_tensors(module, weight=value, **bias), x) for value in values]
        if any(output is None or output.shape != x.shape for output in outputs):
            continue
        axis = 2 if shape[2] == channels else 1
        none, once, twice = (output.movedim(axis, 0) for output in outputs if output is not None)
        step = once - none
        if not step[0].any() or step[1:].any() or not _close(twice - none, 2 * step):
            continue
        if not none.any():
            return "norm"
        if _close(none[0], step[0]):
            return "norm_plus_one"
    return None
