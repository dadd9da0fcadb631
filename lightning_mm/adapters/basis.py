"""How availability picks rows from a bank (``Bool[B, M] -> Bool[B, K]``), and how these rows are mixed.

A basis never multiplies by zero: ``0 * NaN`` would carry a non-finite row into samples that do not use it. One-hot
looks rows up; the other bases add up the rows that a sample uses.

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
from lightning_mm.errors import LightningMMError, check_choice
from lightning_mm.modalities import Modalities

log = logging.getLogger(__name__)

MOST_ROWS = 4096
"""The most rows of :class:`OneHot`."""
MOST_TABLED = 12
"""The most modalities for which all combinations are listed."""


class Basis(nn.Module):
    """Base class of all bases; :meth:`bind` fixes the modalities before use.

    A subclass defines ``names`` and ``route``; unless it overrides the other methods too, the rows that a sample uses
    are added up.
    """

    modalities: Modalities
    looks_up: bool = False
    """Whether ``gather`` returns one row per sample, so that it is the cheap way to fetch it."""

    def bind(self, modalities: Modalities) -> None:
        """Fix the modalities; called once by the adapter that owns the basis."""
        self.modalities = modalities

    @property
    def names(self) -> tuple[str, ...]:
        """The meaning of each of the K rows."""
        raise NotImplementedError

    def route(self, available: Bool[Tensor, "batch modality"]) -> Shaped[Tensor, " batch *route"]:
        """Compute from ``available`` (``Bool[B, M]``) what the banks need, ``[B, ...]``, once per forward.

        By default this is a mask of the rows that each sample uses, ``Bool[B, K]``, empty for the full combination; or
        their factors, ``Float[B, K]``, zero for rows that it does not use.
        """
        raise NotImplementedError

    def mix(
        self, route: Shaped[Tensor, " batch *route"], table: Float[Tensor, "row channel"]
    ) -> Float[Tensor, "batch channel"]:
        """Compute the coefficients of each sample, ``[B, C]``, from rows ``[K, C]``; zero for the full combination."""
        if route.device.type == "cpu" and not tracing():
            mixed: Tensor = _SumOfRows.apply(route, table)
            return mixed
        return _sum_of_rows(route, table)

    def gather(
        self, route: Shaped[Tensor, " batch *route"], table: Float[Tensor, " row *entry"]
    ) -> Float[Tensor, "batch slot *entry"]:
        """Collect the rows that each sample uses, ``[B, S, ...]`` from ``[K, ...]``; zeros in unused slots.

        For kinds with rows that cannot be added up before use, such as the two factors of LoRA.
        """
        used = route.view(*route.shape, *[1] * (table.ndim - 1))
        return torch.where(used, table, torch.zeros((), dtype=table.dtype, device=table.device))

    def weights(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch row"]:
        """Return which rows each sample uses, ``Bool[B, K]``."""
        return self.route(available)

    def uses(self, route: Shaped[Tensor, " batch *route"]) -> Bool[Tensor, " batch"]:
        """Return which samples use any row, ``Bool[B]``."""
        return route.any(dim=1)

    def most_rows(self) -> int:
        """Return how many rows the combination uses that uses most; of many modalities, one of those that lack most."""
        if self.looks_up:
            return 1
        device = next((buffer.device for buffer in self.buffers()), torch.device("cpu"))
        names = self.modalities.incomplete() if len(self.modalities) <= MOST_TABLED else tuple(self.modalities)
        return int(self.weights(self.modalities.masks(names).to(device)).sum(1).max())

    def rows_at_once(self) -> int:
        """Return an upper bound of the number of rows that are added up for one sample."""
        return 1 if self.looks_up else len(self.names)


def _sum_of_rows(route: Tensor, table: Tensor) -> Tensor:
    used, zero = route.unsqueeze(2), torch.zeros((), dtype=table.dtype, device=table.device)
    if route.dtype != torch.bool:  # factors of the rows
        used, table = used != 0, used.to(table.dtype) * table
    return torch.where(used, table, zero).sum(1)


def is_finite(tensor: Tensor) -> bool:
    """Check by their sum that all entries are finite (a sum that overflows counts as not finite)."""
    return math.isfinite(tensor.detach().sum())


class _SumOfRows(torch.autograd.Function):
    """``_sum_of_rows`` as a matrix product, faster on the CPU; falls back to it if an entry is not finite.

    The gradient of factors that are zero may be NaN if the row is; a basis passes them through a ReLU, which drops it.
    """

    @staticmethod
    def forward(ctx: Any, route: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(route, table if ctx.needs_input_grad[0] else None)
        return route.to(table.dtype) @ table if is_finite(table) else _sum_of_rows(route, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        route, table = ctx.saved_tensors
        of_route = None if table is None else gradient @ table.mT  # each entry of one sample and one row alone
        if is_finite(gradient):
            return of_route, route.mT.to(gradient.dtype) @ gradient
        return of_route, _sum_of_rows(route.mT, gradient)


def _look_up(route: Int[Tensor, " batch"], table: Float[Tensor, " row *entry"]) -> Float[Tensor, " batch *entry"]:
    """Return the row of each sample; zeros for samples with an index one past the last row."""
    if route.device.type != "cpu" or tracing():
        # on the GPU the gradient of index_select would be summed in random order, so no two runs would be equal
        return F.pad(table, (0, 0) * (table.ndim - 1) + (0, 1))[route]
    rows = table.index_select(0, route.clamp(max=table.shape[0] - 1))
    complete = (route >= table.shape[0]).nonzero().squeeze(1)
    return rows.index_fill_(0, complete, 0.0) if complete.shape[0] else rows


class Additive(Basis):
    """One row per absent modality, added up: M rows instead of 2^M - 2, and unseen combinations work too."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"without {name}" for name in self.modalities)

    def route(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch modality"]:
        return ~available


class Pairwise(Basis):
    """One row per absent modality and one per pair of absent modalities, added up: M (M + 1) / 2 rows.

    The row of a pair holds what two absences change beyond the sum of their own rows. Combinations never seen in
    training work; a pair that was never absent together adds the initial value of its row, which is zero except for
    :class:`PromptTokens`.
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
    """One row for all incomplete combinations: the ablation that only distinguishes complete from incomplete."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("incomplete",)

    def route(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch 1"]:
        return ~available.all(dim=1, keepdim=True)


class OneHot(Basis):
    """One row per incomplete combination (arXiv 2310.03986); the full combination is the base itself.

    Args:
        combinations: The combinations that get a row, e.g. ``["rgb", "depth"]``; default: all 2^M - 2 incomplete ones.
        unseen: What a combination without a row uses (the log lists the choices): ``base`` uses no row, which is the
            zero-fill baseline; ``superset`` the row of the smallest combination that contains it; ``subset`` the row of
            the largest one that it contains. Of several, the first in the order of ``Modalities.combinations``; if
            there is no such combination, the base.

    Raises:
        LightningMMError: If ``unseen`` is not one of these.
    """

    rows: Tensor
    chosen: Tensor
    looks_up = True

    def __init__(
        self, combinations: list[str] | None = None, unseen: Literal["base", "superset", "subset"] = "base"
    ) -> None:
        super().__init__()
        check_choice("OneHot: unseen", unseen, ("base", "superset", "subset"))
        self.combinations, self.unseen = combinations, unseen

    def bind(self, modalities: Modalities) -> None:
        super().bind(modalities)
        size = len(modalities)
        count = len(set(self.combinations)) if self.combinations else 2**size - 2
        if count > MOST_ROWS:
            raise LightningMMError(
                f"OneHot of {size} modalities needs {count:,} rows at every layer, one for each incomplete "
                f"combination, and more than {MOST_ROWS:,} are not built; use Additive() ({size} rows) or Pairwise() "
                f"({size * (size + 1) // 2:,} rows), or choose combinations with OneHot(combinations=[...])"
            )
        names = modalities.select(self.combinations) if self.combinations else modalities.combinations()
        self._names = tuple(name for name in names if name != modalities.full)
        if not self._names:
            raise LightningMMError(f"basis OneHot of {list(modalities)} has no incomplete combination to adapt to")
        masks, count = modalities.masks(self._names), len(self._names)
        if size > MOST_TABLED:
            self.register_buffer("chosen", masks, persistent=False)
            log.warning("basis OneHot(unseen=%r): %s combinations have no row", self.unseen, f"{2**size - 2 - count:,}")
            return
        # a table: in a call it costs less than a comparison with all chosen combinations
        rows = torch.full((2**size,), count)
        rows[modalities.code(masks)] = torch.arange(count)
        chosen = set(self._names)
        without = [name for name in modalities.incomplete() if name not in chosen]
        if without:
            others = modalities.masks(without)
            near = self._nearest(others, masks)
            rows[modalities.code(others)] = near
            used = [self._names[row] if row < count else "the base" for row in near.tolist()]
            rules = [f"{name} uses {row}" for name, row in zip(without, used)]
            log.warning("basis OneHot(unseen=%r), combinations without a row: %s", self.unseen, "; ".join(rules))
        self.register_buffer("rows", rows, persistent=False)

    def _nearest(
        self, available: Bool[Tensor, "batch modality"], chosen: Bool[Tensor, "row modality"]
    ) -> Int[Tensor, " batch"]:
        """Find the row of each combination, or of the one that it uses instead; K for the base."""
        mine, theirs, count = available.unsqueeze(1), chosen, len(chosen)  # theirs in the order of sizes
        places = torch.arange(count, device=available.device)
        fits = (mine == theirs).all(2)
        if self.unseen == "superset":  # the first is the smallest
            fits = fits | (theirs | ~mine).all(2)
        elif self.unseen == "subset":  # of the largest ones, the first
            sizes = theirs.sum(1)
            places = (sizes.max() - sizes) * count + places
            fits = fits | (mine | ~theirs).all(2)
        best = torch.where(fits, places, places.max() + 1).argmin(1)
        return torch.where(fits.any(1) & ~available.all(1), best, count)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def route(self, available: Bool[Tensor, "batch modality"]) -> Int[Tensor, " batch"]:
        if len(self.modalities) > MOST_TABLED:
            return self._nearest(available, self.chosen)
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
