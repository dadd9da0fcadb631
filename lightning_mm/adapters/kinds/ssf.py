"""Scale and shift of the features after a layer: ``h * scale + shift`` per channel, or one of the two.

Reference: Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, section 3.2; for missing modalities
Reza et al., arXiv 2310.03986, section 3.

Shapes: B samples, K rows of the basis, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor, nn

from lightning_mm.adapters.absent_rows import tracing
from lightning_mm.adapters.basis import Basis, mix_together
from lightning_mm.adapters.kinds.base import Bank, Kind, Mixed
from lightning_mm.adapters.layers.fold import fold_scale_shift
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.modulate import Modulate, ModulateInPlace, modulate_, modulated
from lightning_mm.adapters.layers.types import Adaptable


class SSFBank(Bank):
    """``K`` rows of a scale and a shift; ``scale`` holds the distance from 1, so that rows add up under any basis.

    Args:
        rows: K.
        channels: C.
        parts: Which of ``scale`` and ``shift`` are learned; the other is left out.
    """

    scale: nn.Parameter | None
    shift: nn.Parameter | None

    def __init__(self, rows: int, channels: int, parts: tuple[str, ...] = ("scale", "shift")) -> None:
        super().__init__()
        for part in ("scale", "shift"):
            self.register_parameter(part, nn.Parameter(torch.zeros(rows, channels)) if part in parts else None)

    def tables(self) -> tuple[Float[Tensor, "row channel"], ...]:
        return tuple(table for table in (self.scale, self.shift) if table is not None)

    def coefficients(
        self, route: Shaped[Tensor, " batch *route"] | Mixed, basis: Basis
    ) -> tuple[Float32[Tensor, "batch channel"] | None, Float32[Tensor, "batch channel"] | None]:
        """Scale and shift of each sample in float32, both ``[B, C]``; None for the one that is not learned."""
        mixed = route.values if isinstance(route, Mixed) else mix_together(route, basis, self.tables())
        if self.scale is None:
            return None, mixed
        if self.shift is None:
            return 1 + mixed, None
        scale, shift = mixed.chunk(2, 1)
        return 1 + scale, shift

    def forward(
        self,
        output: Float[Tensor, " *output"],
        route: Shaped[Tensor, " batch *route"] | Mixed,
        basis: Basis,
        site: Site,
    ) -> Float[Tensor, " *output"]:
        scale, shift = self._placed(output, route, basis, site)
        if scale is None:
            assert shift is not None
            return output + shift
        if shift is None:
            return output * scale
        if tracing():
            return torch.addcmul(shift, output, scale)
        if not torch.is_grad_enabled():
            return modulated(output, scale, shift)
        changed: Tensor = Modulate.apply(output, scale, shift)
        return changed

    def overwrite(
        self,
        output: Float[Tensor, " *output"],
        route: Shaped[Tensor, " batch *route"] | Mixed,
        basis: Basis,
        site: Site,
        *given: Any,
    ) -> Float[Tensor, " *output"]:
        scale, shift = self._placed(output, route, basis, site)
        if scale is None:
            assert shift is not None
            return output.add_(shift)
        if torch.is_grad_enabled():
            changed: Tensor = ModulateInPlace.apply(output, scale, shift)
            return changed
        return modulate_(output, scale, shift)

    def divisor(self) -> Float[Tensor, "row channel"] | None:
        return self.scale

    def _placed(
        self, output: Tensor, route: Tensor | Mixed, basis: Basis, site: Site
    ) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift in the dtype of the output, in shapes that broadcast with it."""
        layout = site.layout(output)
        scale, shift = (
            None if one is None else layout.place(one.to(output.dtype), output)
            for one in self.coefficients(route, basis)
        )
        return scale, shift

    def fold(self, module: nn.Module, route: Shaped[Tensor, " 1 *route"], basis: Basis) -> None:
        scale, shift = (None if one is None else one[0] for one in self.coefficients(route, basis))
        fold_scale_shift(module, scale, shift)


class SSF(Kind):
    """A scale and a shift per channel after each linear, convolution and normalisation layer; identity at the start."""

    targets = Adaptable

    def bank(self, site: Site, rows: int) -> SSFBank:
        return SSFBank(rows, site.channels)


class ScaleOnly(Kind):
    """The scale of :class:`SSF` without its shift: half the parameters."""

    targets = Adaptable

    def bank(self, site: Site, rows: int) -> SSFBank:
        return SSFBank(rows, site.channels, ("scale",))


class ShiftOnly(Kind):
    """The shift of :class:`SSF` without its scale: half the parameters.

    Unlike :class:`BitFit` it goes to layers without a bias too; folding gives them one.
    """

    targets = Adaptable

    def bank(self, site: Site, rows: int) -> SSFBank:
        return SSFBank(rows, site.channels, ("shift",))
