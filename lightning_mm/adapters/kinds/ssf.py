"""Scale and shift of the output of a layer: ``h * scale + shift`` per channel, or one of the two.

Reference: Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, section 3.2; for missing modalities
Reza et al., arXiv 2310.03986, section 3.

Shapes: B samples, K rows of the basis, C channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.kinds.base import Bank, Kind
from lightning_mm.adapters.layers.fold import fold_scale_shift
from lightning_mm.adapters.layers.half import HALF, modulated_half
from lightning_mm.adapters.layers.in_place import modulate_in_place
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.modulate import Modulate, modulated
from lightning_mm.adapters.layers.types import Adaptable
from lightning_mm.adapters.tracing import tracing


class SSFBank(Bank):
    """``K`` rows of a scale and a shift; ``scale`` holds the difference from 1, so that rows can be added up.

    Args:
        rows: K.
        channels: C.
        parts: Which of ``scale`` and ``shift`` are learned.
    """

    scale: nn.Parameter | None
    shift: nn.Parameter | None

    def __init__(self, rows: int, channels: int, parts: tuple[str, ...] = ("scale", "shift")) -> None:
        super().__init__()
        for part in ("scale", "shift"):
            self.register_parameter(part, nn.Parameter(torch.zeros(rows, channels)) if part in parts else None)

    @property
    def invertible(self) -> bool:
        """Whether outputs may be modified in place in training, see :mod:`lightning_mm.adapters.layers.in_place`."""
        return self.scale is not None

    def coefficients(
        self, call: LayerCall
    ) -> tuple[Float32[Tensor, "batch channel"] | None, Float32[Tensor, "batch channel"] | None]:
        """Return scale and shift of each sample in float32, both ``[B, C]``; None for a part that is not learned."""
        scale = None if self.scale is None else 1 + call.mix(self.scale)
        return scale, None if self.shift is None else call.mix(self.shift)

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *output"]:
        layout = call.site.layout(output)
        if output.dtype in HALF:
            exact = (None if one is None else layout.place(one, output) for one in self.coefficients(call))
            return modulated_half(output, *exact)
        scale, shift = (
            None if one is None else layout.place(one.to(output.dtype), output) for one in self.coefficients(call)
        )
        if scale is None:
            assert shift is not None
            return output.add_(shift) if call.in_place else output + shift
        if call.in_place:
            return modulate_in_place(output, scale, shift)
        if shift is None:
            return output * scale
        if tracing():
            return torch.addcmul(shift, output, scale)
        if not torch.is_grad_enabled():
            return modulated(output, scale, shift)
        changed: Tensor = Modulate.apply(output, scale, shift)
        return changed

    def fold(self, call: LayerCall) -> None:
        scale, shift = (None if one is None else one[0] for one in self.coefficients(call))
        fold_scale_shift(call.module, scale, shift)


class SSF(Kind):
    """A scale and a shift per channel after linear, convolution, norm and attention layers; identity at the start."""

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

    Unlike :class:`BitFit` it also adapts layers without a bias; folding adds a bias to them.
    """

    targets = Adaptable

    def bank(self, site: Site, rows: int) -> SSFBank:
        return SSFBank(rows, site.channels, ("shift",))
