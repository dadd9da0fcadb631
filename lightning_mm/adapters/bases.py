"""How availability picks from a bank: ``Bool[B, M] -> weights Bool[B, K]``, and the mixing of a bank's rows.

A basis never multiplies by zero: ``0 * NaN`` would carry a non-finite row into samples that do not use it. One-hot
looks rows up, the others add the rows that are switched on.

Shapes: B samples, M modalities, K rows, C channels.
"""

from __future__ import annotations

import logging

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities

log = logging.getLogger(__name__)


class Basis(nn.Module):
    """Base of all bases; :meth:`bind` fixes the modalities before use."""

    modalities: Modalities

    def bind(self, modalities: Modalities) -> None:
        """Fix the modalities; called once by the adapter that owns the basis."""
        self.modalities = modalities

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the K rows stands for."""
        raise NotImplementedError

    def route(self, available: Bool[Tensor, "batch modality"]) -> Shaped[Tensor, " batch *route"]:
        """What the banks need of ``available`` (``Bool[B, M]``), computed once per forward: ``[B, ...]``."""
        raise NotImplementedError

    def mix(
        self, route: Shaped[Tensor, " batch *route"], table: Float[Tensor, "row channel"]
    ) -> Float[Tensor, "batch channel"]:
        """Coefficients of each sample, ``[B, C]``, out of the rows ``[K, C]``; zero for the full combination."""
        raise NotImplementedError

    def gather(
        self, route: Shaped[Tensor, " batch *route"], table: Float[Tensor, " row *entry"]
    ) -> Float[Tensor, "batch slot *entry"]:
        """The entries of the rows that each sample uses, ``[B, S, ...]`` out of ``[K, ...]``; zeros in empty slots.

        For kinds whose rows cannot be added up before use, such as the two factors of LoRA.
        """
        raise NotImplementedError

    def weights(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch row"]:
        """The rows that each sample uses, ``Bool[B, K]``."""
        raise NotImplementedError


class OneHot(Basis):
    """One row per incomplete combination (arXiv 2310.03986); the full combination is the base itself.

    Args:
        combinations: Those that get a row, e.g. ``["rgb", "depth"]``; default all 2^M - 2 incomplete ones. A
            combination without a row behaves as the base (a message in the log names them).
    """

    rows: Tensor

    def __init__(self, combinations: list[str] | None = None) -> None:
        super().__init__()
        self.combinations = combinations

    def bind(self, modalities: Modalities) -> None:
        super().bind(modalities)
        chosen = modalities.select(self.combinations) if self.combinations else modalities.combinations()
        self._names = tuple(name for name in chosen if name != modalities.full)
        if not self._names:
            raise LightningMMError(f"basis OneHot of {list(modalities)} has no incomplete combination to adapt to")
        left_out = sorted(set(modalities.incomplete()) - set(self._names))
        if left_out:
            log.warning("basis OneHot: %s have no row and behave as the base", ", ".join(left_out))
        rows = torch.full((2 ** len(modalities),), len(self._names))
        rows[modalities.code(modalities.masks(self._names))] = torch.arange(len(self._names))
        self.register_buffer("rows", rows, persistent=False)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def route(self, available: Bool[Tensor, "batch modality"]) -> Int[Tensor, " batch"]:
        return self.rows[self.modalities.code(available)]

    def mix(self, route: Int[Tensor, " batch"], table: Float[Tensor, "row channel"]) -> Float[Tensor, "batch channel"]:
        picked = table[route.clamp(max=len(table) - 1)]
        return torch.where((route < len(table)).unsqueeze(1), picked, torch.zeros((), device=table.device))

    def gather(
        self, route: Int[Tensor, " batch"], table: Float[Tensor, " row *entry"]
    ) -> Float[Tensor, "batch 1 *entry"]:
        picked = table[route.clamp(max=len(table) - 1)]
        has_row = (route < len(table)).view(-1, *[1] * (table.ndim - 1))
        return torch.where(has_row, picked, torch.zeros((), dtype=table.dtype, device=table.device)).unsqueeze(1)

    def weights(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch row"]:
        return self.route(available).unsqueeze(1) == torch.arange(len(self._names), device=available.device)


class Additive(Basis):
    """One row per absent modality, added up: M rows, not 2^M - 2, and combinations never seen in training work."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"without {name}" for name in self.modalities)

    def route(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch modality"]:
        return ~available.bool()

    def mix(
        self, route: Bool[Tensor, "batch row"], table: Float[Tensor, "row channel"]
    ) -> Float[Tensor, "batch channel"]:
        return torch.where(route.unsqueeze(2), table, torch.zeros((), device=table.device)).sum(1)

    def gather(
        self, route: Bool[Tensor, "batch row"], table: Float[Tensor, " row *entry"]
    ) -> Float[Tensor, "batch row *entry"]:
        used = route.view(*route.shape, *[1] * (table.ndim - 1))
        return torch.where(used, table, torch.zeros((), dtype=table.dtype, device=table.device))

    def weights(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch row"]:
        return self.route(available)
