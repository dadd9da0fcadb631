"""Whose memory the output of a layer is: where nobody else has it, it is changed in place.

In training this halves what adapters of features keep for the gradient. A layer's own output is what the gradient of a
scale needs, and it can be told from the modulated one, which the network keeps for its own gradient anyway.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks
from torch.utils._pytree import tree_leaves

from lightning_mm.adapters.absent_rows import tracing
from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.kinds.base import Bank
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.types import known_type

FARTHEST = 0.75
"""Scales up to this far from 1 are divided by; smaller ones would make much of the rounding of what is divided."""
HELD_HERE = 2
"""References to a tensor that :meth:`Outputs.left_alone` counts if nobody else has one: its own, and the count's."""


def is_own(module: nn.Module, output: Any) -> bool:
    """Whether an output is new memory that nobody has seen and no layer keeps: that of a layer of torch."""
    return (
        isinstance(output, Tensor)
        and known_type(module) is not None
        and len(module._forward_hooks) == 1
        and not _global_forward_hooks
        and not tracing()
    )


def may_be_undone(site: Site, module: nn.Module, output: Any) -> bool:
    """Whether a layer may be modulated in place in a call with gradients, as far as its output tells."""
    return (
        site.left_alone
        and is_own(module, output)
        and output.dtype in (torch.float32, torch.float64)
        and not output._is_view()
    )


def scales_away_from_zero(banks: nn.ModuleDict, basis: Basis) -> frozenset[str]:
    """The banks whose scales, as they are now, can be divided by; one look for all of them."""
    tables = {key: table for key, bank in banks.items() if (table := cast(Bank, bank).divisor()) is not None}
    if not tables:
        return frozenset()
    farthest = torch.stack(torch._foreach_norm([table.detach() for table in tables.values()], torch.inf))
    bound = FARTHEST / basis.rows_at_once()
    return frozenset(key for key, far in zip(tables, farthest.tolist()) if far < bound)


class Outputs:
    """What layers put out in one call, to tell whether the network leaves it as it is.

    It does if nothing changes it in place (``nn.ReLU(inplace=True)`` does) and nobody has it when the call is over.
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
