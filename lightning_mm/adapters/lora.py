"""Low-rank change of a layer's weight: ``W x + scaling * up(down(x))``, with factors of its own for each combination.

Every sample is taken through the factors of the rows that it uses, in one product for the whole batch (for
convolutions one of B groups): the cost does not grow with the number of combinations, and no row meets a sample that
does not use it, so that a non-finite one cannot spread.

Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1; the form for
convolutions is that of the peft library.

Shapes: B samples, T steps merged with them, K rows of the basis, S rows that a sample uses, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from lightning_mm.adapters.banks import Bank, Kind
from lightning_mm.adapters.bases import Basis
from lightning_mm.adapters.folding import fold_weight_change
from lightning_mm.adapters.layers import known_type
from lightning_mm.adapters.layout import Site
from lightning_mm.errors import LightningMMError


class LoRABank(Bank):
    """``K`` rows of two factors of a weight ``[out, *in]``: ``down [K, R, *in]``; ``up [K, R, out]``, zero at first.

    Args:
        rows: K.
        weight: Shape of the weight of the layer, e.g. ``[out, in]`` or ``[out, in, height, width]``.
        rank: R.
        scaling: Factor of the product.
    """

    needs_input = True

    def __init__(self, rows: int, weight: Sequence[int], rank: int, scaling: float = 1.0) -> None:
        super().__init__()
        bound = 1 / math.sqrt(math.prod(weight[1:]))  # that of a fresh layer
        self.scaling = scaling
        self.down = nn.Parameter(torch.empty(rows, rank, *weight[1:]).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(rows, rank, weight[0]))

    def factors(
        self, route: Shaped[Tensor, " batch *route"], basis: Basis
    ) -> tuple[Float32[Tensor, "batch slotrank *weight"], Float32[Tensor, "batch slotrank out"]]:
        """The factors of each sample in float32, ``[B, S * R, *in]`` and ``[B, S * R, out]``; the second is scaled."""
        with torch.autocast(route.device.type, enabled=False):
            tables = (self.down.float(), self.up.float() * self.scaling)
            down, up = (basis.gather(route, table).flatten(1, 2) for table in tables)
            return down, up

    def forward(
        self,
        output: Float[Tensor, " *output"],
        route: Shaped[Tensor, " batch *route"],
        basis: Basis,
        site: Site,
        layer: nn.Module | None = None,
        given: Float[Tensor, " *input"] | None = None,
    ) -> Float[Tensor, " *output"]:
        """Add the low-rank part; ``given`` is the input of ``layer``."""
        assert layer is not None
        assert given is not None
        layout = site.layout(output)
        down, up = (factor.to(output.dtype) for factor in self.factors(route, basis))
        with torch.autocast(output.device.type, enabled=False):
            x = layout.by_sample(given.to(output.dtype), route.shape[0])  # [B, T, ...]
            if isinstance(layer, _ConvNd):
                hidden = _convolve(layer, x, down)  # [B, T, S * R, *space]
                change = up.mT.unsqueeze(1) @ hidden.flatten(3)
                change = change.unflatten(3, hidden.shape[3:])
            else:
                change = x.flatten(1, -2) @ down.mT @ up
                change = change.unflatten(1, x.shape[1:-1])
            return output + layout.merged(change)

    def fold(self, module: nn.Module, route: Shaped[Tensor, " 1 *route"], basis: Basis) -> None:
        down, up = self.factors(route, basis)
        change = up[0].mT @ down[0].flatten(1)
        fold_weight_change(module, change.view(-1, *down.shape[2:]))


def _convolve(
    layer: _ConvNd,
    x: Float[Tensor, "batch step channel *space"],
    filters: Float[Tensor, "batch filter channel *kernel"],
) -> Float[Tensor, "batch step filter *out"]:
    """Convolve as the layer does, each sample with filters of its own: one group per sample."""
    batch, padding = x.shape[0], layer.padding
    grouped = x.transpose(0, 1).flatten(1, 2)  # [T, B * C, *space]
    if layer.padding_mode != "zeros":
        grouped = F.pad(grouped, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = 0  # type: ignore[assignment]
    convolve = cast(Any, {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[grouped.ndim])
    hidden: Tensor = convolve(grouped, filters.flatten(0, 1), None, layer.stride, padding, layer.dilation, batch)
    return hidden.unflatten(1, (batch, -1)).transpose(0, 1)


class LoRA(Kind):
    """A low-rank change of the weights of linear and convolution layers (groups=1); identity at the start.

    Layers of a subclass with a ``forward`` of its own are left out: what they do with their input is not known.

    Args:
        rank: Of the change. One larger than the rank that the weight can have, min(out, in * kernel size), is cut to
            it, so that ``LoRA(rank=10_000)`` is a change without restriction.
        alpha: The change is scaled by ``alpha / rank``, with the rank after the cut; None: not scaled.
        layers: Names or patterns (``"head*"``) of the layers that this kind is for; default: all of its types. Of use
            within :class:`Together`; ``targets`` and ``exclude`` of ``adapt`` count as well.

    Raises:
        LightningMMError: If the rank is less than one or alpha is no positive number; when it meets a network, if a
            pattern fits none of its linear and convolution layers.
    """

    targets = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def __init__(self, rank: int = 4, alpha: float | None = None, layers: list[str] | None = None) -> None:
        if rank < 1:
            raise LightningMMError(f"LoRA needs a rank of at least 1, got {rank}")
        if alpha is not None and not 0 < alpha < math.inf:
            raise LightningMMError(f"LoRA scales by alpha / rank, so alpha must be a positive number, got {alpha}")
        self.rank, self.alpha, self.layers = rank, alpha, layers

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        every = {name: module for name, module in network.named_modules() if isinstance(module, self.targets)}
        for pattern in self.layers or ():
            if not any(fnmatchcase(name, pattern) for name in every):
                raise LightningMMError(
                    f"LoRA(layers=[{pattern!r}]): no linear or convolution layer of {type(network).__name__} is called "
                    f"that; they are named like {list(every)[:5]}"
                )
        details: dict[str, dict[str, Any]] = {}
        reasons: dict[str, str] = {}
        for name, module in every.items():
            if self.layers is not None and not any(fnmatchcase(name, pattern) for pattern in self.layers):
                continue
            if known_type(module) is None:
                reasons[name] = f"{type(module).__name__} has a forward of its own, so what LoRA adds to is not known"
            elif getattr(module, "groups", 1) != 1:
                reasons[name] = f"it has groups={module.groups}, and LoRA adapts convolutions with groups=1"
            else:
                details[name] = {"weight": list(module.weight.shape)}
        return details, reasons

    def bank(self, site: Site, rows: int) -> LoRABank:
        weight = site.details["weight"]
        if len(weight) > 2 and any(layout.batch_axis != 0 for layout in site.layouts):
            raise LightningMMError(
                f"layer {site.name!r} cannot be adapted by LoRA: it is a convolution whose samples do not lie on the "
                "first axis; leave it out with `exclude`"
            )
        rank = min(self.rank, weight[0], math.prod(weight[1:]))
        return LoRABank(rows, weight, rank, 1.0 if self.alpha is None else self.alpha / rank)
