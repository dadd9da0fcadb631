"""Scale and shift of the features after a layer: ``h * scale + shift`` per channel.

Reference: Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, section 3.2; for missing modalities
Reza et al., arXiv 2310.03986, section 3.

Shapes: B samples, K rows of the basis, C channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor, nn

from lightning_mm.adapters.banks import Bank, Kind
from lightning_mm.adapters.bases import Basis
from lightning_mm.adapters.folding import fold_scale_shift
from lightning_mm.adapters.layers import Adaptable
from lightning_mm.adapters.layout import Site


class SSFBank(Bank):
    """``K`` rows of a scale and a shift; ``scale`` holds the distance from 1, so that rows add up under any basis."""

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(rows, channels))
        self.shift = nn.Parameter(torch.zeros(rows, channels))

    def coefficients(
        self, route: Shaped[Tensor, " batch *route"], basis: Basis
    ) -> tuple[Float32[Tensor, "batch channel"], Float32[Tensor, "batch channel"]]:
        """Scale and shift of each sample in float32, both ``[B, C]``."""
        with torch.autocast(route.device.type, enabled=False):
            return 1 + basis.mix(route, self.scale.float()), basis.mix(route, self.shift.float())

    def forward(
        self, output: Float[Tensor, " *output"], route: Shaped[Tensor, " batch *route"], basis: Basis, site: Site
    ) -> Float[Tensor, " *output"]:
        layout = site.layout(output)
        scale, shift = (layout.place(c.to(output.dtype), output) for c in self.coefficients(route, basis))
        return torch.addcmul(shift, output, scale)

    def fold(self, module: nn.Module, route: Shaped[Tensor, " 1 *route"], basis: Basis) -> None:
        scale, shift = self.coefficients(route, basis)
        fold_scale_shift(module, scale[0], shift[0])


class SSF(Kind):
    """A scale and a shift per channel after each linear, convolution and normalisation layer; identity at the start."""

    targets = Adaptable

    def bank(self, site: Site, rows: int) -> SSFBank:
        return SSFBank(rows, site.channels)
