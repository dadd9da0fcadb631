"""Low-rank change of a layer's weight: ``W x + scaling * up(down(x))``, with separate factors for each combination.

With a basis that looks rows up, every sample is multiplied by the factors of its row, in one product for the whole
batch (for convolutions, one with B groups): the cost does not grow with the number of combinations. With a basis that
adds rows up, all samples pass through all rows, which are few, and the result of rows that a sample does not use is
zeroed between the two factors. Either way a sample never meets a row that it does not use, so a non-finite row cannot
spread.

Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1; the form for
convolutions is that of the peft library.

Shapes: B samples, T steps merged with them, K rows of the basis, S rows that a sample uses, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from lightning_mm.adapters.basis import is_finite
from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.kinds.base import Bank, Kind, chosen_by_pattern
from lightning_mm.adapters.layers.fold import fold_weight_change
from lightning_mm.adapters.layers.foreign import role_of
from lightning_mm.adapters.layers.half import HALF, plus
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.types import known_type
from lightning_mm.adapters.tracing import full_precision, tracing
from lightning_mm.errors import LightningMMError, check_whole


class LoRABank(Bank):
    """``K`` rows of two factors of a weight ``[out, *in]``: ``down [K, R, *in]``; ``up [K, R, out]``, initially zero.

    Args:
        rows: K.
        weight: Shape of the weight of the layer, e.g. ``[out, in]`` or ``[out, in, height, width]``.
        rank: R.
        scaling: Factor of the product.
        shared: Whether there is one row for all incomplete combinations, whatever the basis; K is then 1.
    """

    needs_input = True

    def __init__(self, rows: int, weight: Sequence[int], rank: int, scaling: float = 1.0, shared: bool = False) -> None:
        super().__init__()
        self.has_rows = not shared
        rows = 1 if shared else rows
        bound = 1 / math.sqrt(math.prod(weight[1:]))  # as torch initialises a layer
        self.scaling = scaling
        self.down = nn.Parameter(torch.empty(rows, rank, *weight[1:]).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(rows, rank, weight[0]))

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *output"]:
        given: Tensor = call.input
        if given.is_floating_point():
            given = given.to(output.dtype)
        with full_precision(output.device.type):
            one_each = call.basis.looks_up and self.has_rows
            with_rows = self._with_one_row_each if one_each else self._with_all_rows
            if output.dtype not in HALF:
                return with_rows(call, output, given)
            call.in_place = False
            return plus(output, with_rows(call, torch.zeros_like(output), given))

    def _with_one_row_each(self, call: LayerCall, output: Tensor, given: Tensor) -> Tensor:
        """Pass each sample through the factors of its row."""
        layer, layout, batch = call.module, call.site.layout(output), call.route.shape[0]
        up = call.gather(self._scaled_up(output.dtype)).flatten(1, 2)  # [B, R, out]
        if isinstance(layer, nn.Embedding):
            hidden = call.gather(self.down.mT).flatten(1, 2).to(output.dtype)  # [B, num, R]
            ids = layout.by_sample(given, batch)
            rows = ids.flatten(1).unsqueeze(2).expand(-1, -1, hidden.shape[2])
            hidden = _without_padding(layer, ids, hidden.gather(1, rows).view(*ids.shape, -1))
        else:
            down = call.gather(self.down.to(output.dtype)).flatten(1, 2)  # [B, R, *in]
            x = layout.by_sample(given, batch)  # [B, T, ...]
            if isinstance(layer, _ConvNd):
                hidden = _convolve_each(layer, x, down)  # [B, T, R, *space]
                change = up.mT.unsqueeze(1) @ hidden.flatten(3)
                return output + layout.merged(change.unflatten(3, hidden.shape[3:]))
            hidden = x.flatten(1, -2) @ down.mT
            hidden = hidden.view(*x.shape[:-1], -1)
        base = layout.by_sample(output, batch)
        rows = base.flatten(1, -2)
        if call.in_place and rows.data_ptr() == output.data_ptr():  # no copy
            rows.baddbmm_(hidden.flatten(1, -2), up)
            return output
        changed = torch.baddbmm(rows, hidden.flatten(1, -2), up)
        return layout.merged(changed.view(base.shape))

    def _with_all_rows(self, call: LayerCall, output: Tensor, given: Tensor) -> Tensor:
        """Pass all samples through the factors of all rows at once, zeroing unused rows between the two factors."""
        layer, layout, in_place = call.module, call.site.layout(output), call.in_place
        rank = self.down.shape[1]
        down = self.down.to(output.dtype).flatten(0, 1)  # [K * R, *in]
        up = self._scaled_up(output.dtype).flatten(0, 1)  # [K * R, out]
        mark = None
        if output.device.type != "cpu" or tracing() or not (is_finite(up) and is_finite(down)):
            # 0 * NaN is NaN: a non-finite row is left out of the products and marks the samples that use it
            finite = up.isfinite().all(1) & down.isfinite().flatten(1).all(1)
            mark = torch.where(finite, 0.0, torch.nan).to(output.dtype)
            up = torch.where(finite.unsqueeze(1), up, 0.0)
            down = torch.where(finite.view(-1, *[1] * (down.ndim - 1)), down, 0.0)
        if isinstance(layer, nn.Embedding):
            hidden = _without_padding(layer, given, F.embedding(given, down.mT))
        elif isinstance(layer, _ConvNd):
            hidden = _convolve(layer, given, down)
        else:
            hidden = F.linear(given, down)
        route = call.route if self.has_rows else call.uses_rows().unsqueeze(1)
        used = layout.place(route.repeat_interleave(rank, dim=1), hidden)
        if mark is not None:
            shape = [1] * hidden.ndim
            shape[layout.channel_axis] = -1
            hidden = hidden + mark.view(shape)
        hidden = hidden.masked_fill_(~used, 0.0) if in_place else torch.where(used, hidden, 0.0)
        if isinstance(layer, _ConvNd):
            change: Tensor = _CONVOLUTIONS[hidden.ndim](hidden, up.mT.view(*up.mT.shape, *[1] * (hidden.ndim - 2)))
            return output.add_(change) if in_place else output + change
        if in_place and output.is_contiguous():
            output.view(-1, output.shape[-1]).addmm_(hidden.flatten(0, -2), up)
            return output
        flat = torch.addmm(output.flatten(0, -2), hidden.flatten(0, -2), up)
        return flat.view(output.shape)

    def _scaled_up(self, dtype: torch.dtype) -> Float[Tensor, "row rank out"]:
        return (self.up.float() * self.scaling).to(dtype) if self.scaling != 1 else self.up.to(dtype)

    def factors(
        self, call: LayerCall
    ) -> tuple[Float32[Tensor, "batch slotrank *weight"], Float32[Tensor, "batch slotrank out"]]:
        """Return each sample's factors in float32: ``[B, S * R, *in]``, and ``[B, S * R, out]``, which is scaled."""
        with full_precision(call.route.device.type):
            tables = (self.down.float(), self.up.float() * self.scaling)
            if not self.has_rows:
                used = call.uses_rows()
                down, up = (torch.where(used.view(-1, *[1] * (one.ndim - 1)), one, 0.0) for one in tables)
                return down, up
            down, up = (call.gather(table).flatten(1, 2) for table in tables)
            return down, up

    def fold(self, call: LayerCall) -> None:
        module = call.module
        down, up = self.factors(call)
        change = up[0].mT @ down[0].flatten(1)
        if isinstance(module, nn.Embedding):
            if module.padding_idx is not None:
                change[:, module.padding_idx] = 0
            fold_weight_change(module, change.mT)
        else:
            fold_weight_change(module, change.view(-1, *down.shape[2:]))


def _without_padding(layer: nn.Embedding, ids: Tensor, hidden: Tensor) -> Tensor:
    """Zero the change for padding tokens, which an embedding never trains."""
    return hidden if layer.padding_idx is None else hidden.masked_fill((ids == layer.padding_idx).unsqueeze(-1), 0.0)


_CONVOLUTIONS: dict[int, Any] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}  # by the number of axes of a batch


def _convolve(layer: _ConvNd, x: Tensor, filters: Tensor, groups: int = 1) -> Tensor:
    """Convolve like the layer, with other filters and without bias."""
    padding = layer.padding
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = 0  # type: ignore[assignment]
    convolved: Tensor = _CONVOLUTIONS[x.ndim](x, filters, None, layer.stride, padding, layer.dilation, groups)
    return convolved


def _convolve_each(
    layer: _ConvNd,
    x: Float[Tensor, "batch step channel *space"],
    filters: Float[Tensor, "batch filter channel *kernel"],
) -> Float[Tensor, "batch step filter *out"]:
    """Convolve each sample with its own filters: one group per sample."""
    batch = x.shape[0]
    grouped = x.transpose(0, 1).flatten(1, 2)  # [T, B * C, *space]
    hidden = _convolve(layer, grouped, filters.flatten(0, 1), groups=batch)
    return hidden.unflatten(1, (batch, -1)).transpose(0, 1)


class LoRA(Kind):
    """A low-rank change of the weights of linear, convolution (groups=1) and embedding layers; identity at the start.

    Linear layers of other libraries (``Conv1D`` of transformers) are adapted too. Layers of a subclass that overrides
    ``forward`` are left out: how they use their input is unknown.

    Args:
        rank: Rank of the change. It is limited to the largest rank of the weight, min(out, in * kernel size), so that
            ``LoRA(rank=10_000)`` is an unrestricted change.
        alpha: The change is scaled by ``alpha / rank``, with the limited rank; None for no scaling.
        layers: Names or patterns (``"head*"``) of the layers to adapt; default: all linear and convolution layers
            (embeddings only if named here). ``targets`` and ``exclude`` of ``adapt`` apply as well.
        shared: Whether one change serves all incomplete combinations, whatever the basis, next to a kind with rows of
            its own: ``Together([SSF(), LoRA(rank=1, shared=True)])``.

    Raises:
        LightningMMError: If the rank is not a whole number of at least 1 or alpha is not a positive number; later, if a
            pattern matches no layer of these types in the network.
    """

    targets = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)

    def __init__(
        self, rank: int = 4, alpha: float | None = None, layers: list[str] | None = None, shared: bool = False
    ) -> None:
        check_whole("LoRA: rank", rank, 1)
        if alpha is not None and not 0 < alpha < math.inf:
            raise LightningMMError(f"LoRA scales by alpha / rank, so alpha must be a positive number, got {alpha}")
        self.rank, self.alpha, self.layers, self.shared = rank, alpha, layers, shared

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        details: dict[str, dict[str, Any]] = {}
        reasons: dict[str, str] = {}
        for name, found in chosen_by_pattern(self, network, self.layers).items():
            module = cast(Any, found)
            if isinstance(module, nn.Embedding) and self.layers is None:
                continue
            role = role_of(module)
            if role is not None:
                details[name] = {"weight": list(module.weight.shape[:: -1 if role == "transposed" else 1])}
            elif known_type(module) is None:
                reasons[name] = f"{type(module).__name__} overrides forward, so its use of the weight is unknown"
            elif getattr(module, "groups", 1) != 1:
                reasons[name] = f"it has groups={module.groups}, and LoRA adapts convolutions with groups=1 only"
            elif isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
                reasons[name] = "it renormalises its weight (max_norm) or scales gradients by frequency"
            elif isinstance(module, nn.Embedding):
                # treated as a linear layer on one-hot tokens: weight [dim, num]
                details[name] = {"weight": [module.embedding_dim, module.num_embeddings]}
            else:
                details[name] = {"weight": list(module.weight.shape)}
        return details, reasons

    def bank(self, site: Site, rows: int) -> LoRABank:
        weight = site.details["weight"]
        if len(weight) > 2 and any(layout.batch_axis != 0 for layout in site.layouts):
            raise LightningMMError(
                f"layer {site.name!r} cannot be adapted by LoRA: it is a convolution and its samples are not on the "
                "first axis; leave it out with `exclude`"
            )
        rank = min(self.rank, weight[0], math.prod(weight[1:]))
        return LoRABank(rows, weight, rank, 1.0 if self.alpha is None else self.alpha / rank, self.shared)
