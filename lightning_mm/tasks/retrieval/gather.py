"""Joins the rows of all processes of a distributed run, with gradients.

Shapes: B rows of this process, N rows of all.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def gathered(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the rows of all processes, in the order of their ranks; their numbers may differ.

    A loss that every process computes on all rows has, after ``DistributedDataParallel`` has averaged gradients, the
    gradient that one process with all rows would have. All processes must call this.

    Args:
        rows: Tensors ``[B, ...]``, one row per sample.

    Returns:
        ``[N, ...]``; in one process the rows as they are.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    size = len(next(iter(rows.values())))
    sizes: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(sizes, size)
    found = {}
    for name, one in rows.items():
        plain = one.to(torch.uint8) if one.dtype == torch.bool else one  # padding takes no flags
        each: Tensor = _Gather.apply(F.pad(plain, (*[0] * (2 * one.ndim - 1), max(sizes) - size)))
        found[name] = torch.cat([part[:own] for part, own in zip(each, sizes)]).to(one.dtype)
    return found


class _Gather(torch.autograd.Function):
    """``[B, ...] -> [processes, B, ...]``; the gradient of a row is the sum over processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        sent = rows.contiguous()
        each = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(each, sent)
        return torch.stack(each)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]
