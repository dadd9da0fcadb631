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
from torch.autograd.function import once_differentiable

from lightning_mm.adapters.absent_rows import full_precision, tracing
from lightning_mm.adapters.banks import Bank, Kind
from lightning_mm.adapters.bases import Basis
from lightning_mm.adapters.folding import fold_scale_shift
from lightning_mm.adapters.layers import Adaptable
from lightning_mm.adapters.layout import Site


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

    def coefficients(
        self, route: Shaped[Tensor, " batch *route"], basis: Basis
    ) -> tuple[Float32[Tensor, "batch channel"] | None, Float32[Tensor, "batch channel"] | None]:
        """Scale and shift of each sample in float32, both ``[B, C]``; None for the one that is not learned."""
        with full_precision(route.device.type):
            if self.scale is None:
                assert self.shift is not None
                return None, basis.mix(route, self.shift.float())
            if self.shift is None:
                return 1 + basis.mix(route, self.scale.float()), None
            # in one go: on small layers the calls cost more than what they do
            scale, shift = basis.mix(route, torch.cat([self.scale, self.shift], 1).float()).chunk(2, 1)
            return 1 + scale, shift

    def forward(
        self, output: Float[Tensor, " *output"], route: Shaped[Tensor, " batch *route"], basis: Basis, site: Site
    ) -> Float[Tensor, " *output"]:
        scale, shift = self._placed(output, route, basis, site)
        if scale is None:
            assert shift is not None
            return output + shift
        if shift is None:
            return output * scale
        if torch.is_grad_enabled() and not tracing():
            modulated: Tensor = _Modulate.apply(output, scale, shift)
            return modulated
        return torch.addcmul(shift, output, scale)

    def overwrite(
        self,
        output: Float[Tensor, " *output"],
        route: Shaped[Tensor, " batch *route"],
        basis: Basis,
        site: Site,
        *given: Any,
    ) -> Float[Tensor, " *output"]:
        scale, shift = self._placed(output, route, basis, site)
        if scale is None:
            assert shift is not None
            return output.add_(shift)
        if torch.is_grad_enabled():
            modulated: Tensor = _ModulateInPlace.apply(output, scale, shift)
            return modulated
        return _modulate_(output, scale, shift)

    def divisor(self) -> Float[Tensor, "row channel"] | None:
        return self.scale

    def _placed(self, output: Tensor, route: Tensor, basis: Basis, site: Site) -> tuple[Tensor | None, Tensor | None]:
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


def _modulate_(output: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
    return output.mul_(scale) if shift is None else torch.addcmul(shift, output, scale, out=output)


class _Modulate(torch.autograd.Function):
    """``output * scale + shift`` with a backward pass of half the work: addcmul's own multiplies by one, and twice."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(output, scale)
        ctx.shift_shape = shift.shape
        return torch.addcmul(shift, output, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        output, scale = ctx.saved_tensors
        of_output = of_scale = of_shift = spare = None
        if ctx.needs_input_grad[1]:
            product = gradient * output
            of_scale = product.sum_to_size(scale.shape)
            # its memory serves again once it is summed: fresh memory costs more than the multiplication
            spare = product if scale.shape != product.shape else None
        if ctx.needs_input_grad[2]:
            of_shift = gradient.sum_to_size(ctx.shift_shape)
        if ctx.needs_input_grad[0]:
            of_output = gradient * scale if spare is None else torch.mul(gradient, scale, out=spare)
        return of_output, of_scale, of_shift


class _ModulateInPlace(torch.autograd.Function):
    """The same in the memory of ``output``; what that was, its gradient of the scale tells from what is there now.

    ``sum(gradient * before) = (sum(gradient * after) - shift * sum(gradient)) / scale``, for scales away from zero.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
        ctx.mark_dirty(_modulate_(output, scale, shift))
        ctx.save_for_backward(output, scale, shift)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        output, scale, shift = ctx.saved_tensors
        product = gradient * output
        of_scale = product.sum_to_size(scale.shape)
        of_shift = None
        if shift is not None:
            of_shift = gradient.sum_to_size(shift.shape)
            of_scale = of_scale - shift * of_shift
        of_output = None
        if ctx.needs_input_grad[0]:
            spare = product if scale.shape != product.shape else None  # serves again once it is summed
            of_output = torch.mul(gradient, scale, out=spare)
        return of_output, of_scale / scale, of_shift


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
