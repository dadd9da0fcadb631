"""Lets parameters that a loss does not depend on take part in the backward pass of a distributed run.

``DistributedDataParallel`` waits for a gradient of every trained parameter. A layer that a loss does not use has none:
the parameters of some kinds, mixed for all layers at once, get zeros; those of the others (LoRA, Bottleneck, prompts)
get none, and the next step fails. A search for unused parameters in every step would cost more than it helps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_mm.adapters.tracing import tracing
from lightning_mm.tree import map_tensors


def joined(outputs: Any, parameters: Iterable[nn.Parameter]) -> Any:
    """Make the outputs of a network depend on parameters, without a change of values and gradients.

    Args:
        outputs: A nest of tensors.
        parameters: Those that train.

    Returns:
        In a run of several processes and with gradients, the outputs with their tensors copied; otherwise the outputs.
    """
    if tracing() or not torch.is_grad_enabled() or not dist.is_available() or not dist.is_initialized():
        return outputs
    trained = [parameter for parameter in parameters if parameter.requires_grad]

    def join(tensor: Tensor) -> Tensor:
        if not tensor.requires_grad or not trained:
            return tensor
        found: Tensor = _Joined.apply(tensor, *trained)
        return found

    return map_tensors(outputs, join)


class _Joined(torch.autograd.Function):
    """A copy of the first argument; no gradient goes to the others, but their turn in the backward pass comes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, *parameters: Tensor) -> Tensor:
        ctx.others = len(parameters)
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, *[None] * ctx.others
