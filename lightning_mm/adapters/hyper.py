"""A basis that generates the row of a combination from its absent modalities by a small network.

Shapes: B samples, M modalities, H hidden units, which are the rows of the banks.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from lightning_mm.adapters.basis import Basis
from lightning_mm.errors import LightningMMError, check_whole
from lightning_mm.modalities import Modalities


class Hyper(Basis):
    """Rows generated as ``W2 relu(W1 absent)``; the hidden layer adds interactions to :class:`Additive`.

    ``absent`` is one for each absent modality and zero otherwise. ``W1`` ``[H, M]`` is trained and shared by all
    layers; the banks hold ``W2``: row h is what hidden unit h contributes, so a fresh adapter is the identity, as with
    any basis (except for :class:`PromptTokens`). There are no biases: all units are zero for the full combination, and
    nothing is added. A sample gets one generated row; for :class:`LoRA`, both factors are generated. The first M units
    start as the absent modalities, the others as random mixtures of them; without these, a fresh basis is the additive
    one. Combinations never seen in training work. All H rows count as parameters of every combination.

    Args:
        hidden: H, at least M; default: 2 M.
        seed: Seed of the start of ``W1``.

    Raises:
        LightningMMError: If a setting is no whole number or too small.

    Reference:
        Own reconstruction. arXiv 2406.01987 personalises a model for the modalities that are present by a
        hyper-network; only its abstract was read. Input, width, start and the missing biases were chosen by us.
    """

    looks_up = True

    def __init__(self, hidden: int | None = None, seed: int = 0) -> None:
        super().__init__()
        if hidden is not None:
            check_whole("Hyper: hidden", hidden, 1)
        check_whole("Hyper: seed", seed, 0)
        self.hidden, self.seed = hidden, seed

    def bind(self, modalities: Modalities) -> None:
        super().bind(modalities)
        size = len(modalities)
        self.units = 2 * size if self.hidden is None else self.hidden
        if self.units < size:
            raise LightningMMError(
                f"Hyper: hidden is {self.units} for {size} modalities {list(modalities)}; expected at least {size}, "
                "one unit for each, or leave it out"
            )
        mixed = torch.randn(self.units - size, size, generator=torch.Generator().manual_seed(self.seed))
        if len(mixed):  # a unit whose weights are all negative would never be on
            largest = mixed.gather(1, mixed.abs().argmax(1, keepdim=True))
            mixed = mixed * largest.sign()
        self.weight = nn.Parameter(torch.cat([torch.eye(size), mixed]))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"unit {number}" for number in range(self.units))

    def route(self, available: Bool[Tensor, "batch modality"]) -> Float[Tensor, "batch unit"]:
        absent = ~available.unsqueeze(1)
        # no product: 0 * NaN is NaN, and autocast would round it
        return torch.where(absent, self.weight, 0.0).sum(2).relu()

    def gather(
        self, route: Shaped[Tensor, " batch *route"], table: Float[Tensor, " row *entry"]
    ) -> Float[Tensor, "batch 1 *entry"]:
        rows = table.flatten(1)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        mixed = self.mix(route.to(rows.dtype), rows).to(table.dtype)
        return mixed.unflatten(1, table.shape[1:]).unsqueeze(1)

    def weights(self, available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch row"]:
        return self.route(available) > 0

    def most_rows(self) -> int:
        return self.units

    def rows_at_once(self) -> int:
        """Return an upper bound of the sum of the factors of all rows."""
        bound = float(self.weight.detach().relu().sum())
        return max(1, math.ceil(bound)) if math.isfinite(bound) else 2**31
