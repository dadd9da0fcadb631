"""How availability picks from a bank: ``Bool[B, M] -> weights Bool[B, K]``, and the mixing of a bank's rows.

A basis never multiplies by zero: ``0 * NaN`` would carry a non-finite row into samples that do not use it. One-hot
looks rows up, the others add up the rows that are switched on.

Shapes: B samples, M modalities, K rows, C channels.
"""

from __future__ import annotations

import logging
import math
from itertools import combinations
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lightning_mm.adapters.tracing import tracing
from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities

log = logging.getLogger(__name__)


class Basis(nn.Module):
    """Base of all bases; :meth:`bind` fixes the modalities before use.

    A basis is its ``names`` and its ``route``: unless the other methods are overridden, the rows that a sample has
    switched on are added up.
    """

    modalities: Modalities
    looks_up: bool = False
    """Whether a sample uses one row at most, and ``gather`` is the cheap way to it."""

    def bind(self, modalities: Modalities) -> None:
        """Fix the modalities; called once by the adapter that owns the basis."""
        self.modalities = modalities

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the K rows stands for."""
        raise NotImplementedError

    def route(self, available: Bool[Tensor, "batch modality"]) -> Shaped[Tensor, " batch *route"]:
        """What the banks need of ``available`` (``Bool[B, M]``), computed once per forward: ``[B, ...]``.

        By default the rows that each sample uses, ``Bool[B, K]``; none for the full combination.
        """
        raise NotImplementedError

    def mix(
        self, route: Shaped[Tensor, " batch *route"], table: Float[Tensor, "row channel"]
    ) -> Float[Tensor, "batch channel"]:
        """Coefficients of each sample, ``[B, C]``, out of the rows ``[K, C]``; zero for the full combination."""
        if route.device.type == "cpu" and not tracing():
            mixed: Tensor = _SumOfRows.apply(route, table)
            return mixed
        return _sum_of_rows(route, table)

    def gather(
        self, route: Shaped[Tensor, " batch *route"], table: Float[Tensor, " row *entry"]
    ) -> Float[Tensor, "batch slot *entry"]:
        """The entries of the rows that each sample uses, ``[B, S, ...]`` out of ``[K, ...]``; zeros in empty slots.

        For kinds whose rows cannot be added up before use, such as the two factors of LoRA.
        """
        used = route.view(*route.shape, *[1] * (table.ndim - 1))
        return torch.where(used, table, torch.zeros((), dtype=table.dtype, device=table.device))

    def weights(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch row"]:
        """The rows that each sample uses, ``Bool[B, K]``."""
        return self.route(available)

    def uses(self, route: Shaped[Tensor, " batch *route"]) -> Bool[Tensor, " batch"]:
        """Which samples use a row at all, ``Bool[B]``."""
        return route.any(dim=1)

    def rows_at_once(self) -> int:
        """How many rows a sample has added up at most: an upper bound."""
        return 1 if self.looks_up else len(self.names)


def _sum_of_rows(route: Tensor, table: Tensor) -> Tensor:
    return torch.where(route.unsqueeze(2), table, torch.zeros((), dtype=table.dtype, device=table.device)).sum(1)


def is_finite(tensor: Tensor) -> bool:
    """Whether all entries are finite, told by their sum (one that overflows is taken for one that is not)."""
    return math.isfinite(tensor.detach().sum())


class _SumOfRows(torch.autograd.Function):
    """The same by a product of matrices, faster on the CPU; where one of them is not finite, the slow way."""

    @staticmethod
    def forward(ctx: Any, route: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(route)
        return route.to(table.dtype) @ table if is_finite(table) else _sum_of_rows(route, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (route,) = ctx.saved_tensors
        if is_finite(gradient):
            return None, route.mT.to(gradient.dtype) @ gradient
        return None, _sum_of_rows(route.mT, gradient)


def _look_up(route: Int[Tensor, " batch"], table: Float[Tensor, " row *entry"]) -> Float[Tensor, " batch *entry"]:
    """The row of each sample; zeros for samples whose row is one past the last."""
    if route.device.type != "cpu" or tracing():
        # on the GPU the gradient of index_select would be summed in any order, and no run be like the one before
        return F.pad(table, (0, 0) * (table.ndim - 1) + (0, 1))[route]
    found = table.index_select(0, route.clamp(max=table.shape[0] - 1))
    complete = (route >= table.shape[0]).nonzero().squeeze(1)
    return found.index_fill_(0, complete, 0.0) if complete.shape[0] else found


class Additive(Basis):
    """One row per absent modality, added up: M rows, not 2^M - 2, and combinations never seen in training work."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"without {name}" for name in self.modalities)

    def route(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch modality"]:
        return ~available


class Pairwise(Basis):
    """Additive, and one more row per pair of absent modalities: M (M + 1) / 2 rows.

    The rows of pairs hold what two absences change beyond the sum of both. Combinations never seen in training work; a
    pair that was never absent together adds what its row starts with: nothing, but for :class:`PromptTokens`.
    """

    def bind(self, modalities: Modalities) -> None:
        super().bind(modalities)
        self.pairs = list(combinations(range(len(modalities)), 2))

    @property
    def names(self) -> tuple[str, ...]:
        names = list(self.modalities)
        singles = [f"without {name}" for name in names]
        return (*singles, *(f"without {names[i]} and {names[j]}" for i, j in self.pairs))

    def route(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch row"]:
        absent = ~available
        both = [absent[:, i] & absent[:, j] for i, j in self.pairs]
        return torch.cat([absent, *(pair.unsqueeze(1) for pair in both)], dim=1)


class Shared(Basis):
    """One row for all incomplete combinations: the ablation that knows only that something is missing."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("incomplete",)

    def route(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch 1"]:
        return ~available.all(dim=1, keepdim=True)


class OneHot(Basis):
    """One row per incomplete combination (arXiv 2310.03986); the full combination is the base itself.

    Args:
        combinations: Those that get a row, e.g. ``["rgb", "depth"]``; default all 2^M - 2 incomplete ones.
        unseen: What a combination without a row uses (a message in the log says which uses what): ``base``, nothing,
            so that it is the zero-fill baseline; ``superset``, the row of the smallest combination that contains it;
            ``subset``, the row of the largest one inside it. Of several, the first in the order of
            ``Modalities.combinations``; where there is none, the base.
    """

    rows: Tensor
    looks_up = True

    def __init__(
        self, combinations: list[str] | None = None, unseen: Literal["base", "superset", "subset"] = "base"
    ) -> None:
        super().__init__()
        if unseen not in ("base", "superset", "subset"):
            raise LightningMMError(f"OneHot: unseen must be 'base', 'superset' or 'subset', got {unseen!r}")
        self.combinations, self.unseen = combinations, unseen

    def bind(self, modalities: Modalities) -> None:
        super().bind(modalities)
        chosen = modalities.select(self.combinations) if self.combinations else modalities.combinations()
        self._names = tuple(name for name in chosen if name != modalities.full)
        if not self._names:
            raise LightningMMError(f"basis OneHot of {list(modalities)} has no incomplete combination to adapt to")
        stands_for = {name: name for name in self._names}
        without = [name for name in modalities.incomplete() if name not in stands_for]
        stands_for |= {name: near for name in without if (near := self._nearest(name)) is not None}
        if without:
            rules = [f"{name} uses {stands_for.get(name, 'the base')}" for name in without]
            log.warning("basis OneHot(unseen=%r), combinations without a row: %s", self.unseen, "; ".join(rules))
        rows = torch.full((2 ** len(modalities),), len(self._names))
        places = torch.tensor([self._names.index(near) for near in stands_for.values()])
        rows[modalities.code(modalities.masks(list(stands_for)))] = places
        self.register_buffer("rows", rows, persistent=False)

    def _nearest(self, name: str) -> str | None:
        """The combination with a row that stands in for one without."""
        if self.unseen == "base":
            return None
        own = set(self.modalities.parse(name))
        others = {other: set(self.modalities.parse(other)) for other in self._names}
        if self.unseen == "superset":
            return min((o for o in others if own < others[o]), key=lambda o: len(others[o]), default=None)
        return max((o for o in others if others[o] < own), key=lambda o: len(others[o]), default=None)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def route(self, available: Bool[Tensor, "batch modality"]) -> Int[Tensor, " batch"]:
        return self.rows[self.modalities.code(available)]

    def mix(self, route: Int[Tensor, " batch"], table: Float[Tensor, "row channel"]) -> Float[Tensor, "batch channel"]:
        return _look_up(route, table)

    def gather(
        self, route: Int[Tensor, " batch"], table: Float[Tensor, " row *entry"]
    ) -> Float[Tensor, "batch 1 *entry"]:
        return _look_up(route, table).unsqueeze(1)

    def weights(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch row"]:
        return self.route(available).unsqueeze(1) == torch.arange(len(self._names), device=available.device)

    def uses(self, route: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        return route < len(self._names)
