"""BatchNorm statistics of each combination as rows of an adapter: estimated from data, without training.

If a BatchNorm with statistics (mean, var), weight g and bias b outputs ``y``, then with the statistics (mean_c, var_c)
of a combination it outputs ``y * s + t`` where ``s = sqrt(var + eps) / sqrt(var_c + eps)`` and
``t = b * (1 - s) + g * (mean - mean_c) / sqrt(var_c + eps)``. This is one SSF row on its output, so routing in mixed
batches, saving and folding work as for any adapter. It is computed from the input of the BatchNorm in float32: if
features hardly vary, s is large and y in half precision has lost the digits that matter.

Shapes: B samples, M modalities, K rows of the basis, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter, bank_key
from lightning_mm.adapters.basis import OneHot
from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.kinds.base import Kind
from lightning_mm.adapters.kinds.ssf import SSFBank
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.example import take_samples
from lightning_mm.adapters.network.inputs import Call, fill_absent, parameter_path
from lightning_mm.adapters.tracing import full_precision
from lightning_mm.errors import LightningMMError, NotApplicableError, check_fraction
from lightning_mm.tree import batch_size

BatchNorms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
BatchNorm = nn.modules.batchnorm._BatchNorm
"""Base class of the types above."""
FLOOR = 0.001
"""The smallest variance as a share of that of the base, so that scales are at most 32."""
MIN_SAMPLES = 2
"""The fewest samples in a batch that have a variance."""


class NoBatchNormError(NotApplicableError):
    """The network has no BatchNorm with running statistics, so there is nothing to re-estimate."""


class BatchNormSSFBank(SSFBank):
    """A scale and a shift after a BatchNorm, combined with its weights and applied to its input.

    If features hardly vary, both are large; applied to an output in half precision, their difference would be lost.
    """

    needs_input = True
    invertible = False

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *output"]:
        layer = cast(BatchNorm, call.module)
        if layer.running_mean is None or layer.running_var is None:
            return super().leave(call, output)
        scale, shift = self.coefficients(call)
        assert scale is not None
        assert shift is not None
        layout = call.site.layout(output)
        with full_precision(output.device.type):
            slope = (layer.running_var.float() + layer.eps).rsqrt()
            slope = slope if layer.weight is None else slope * layer.weight.float()
            offset = -layer.running_mean.float() * slope
            offset = offset if layer.bias is None else offset + layer.bias.float()
            factor, term = layout.place(slope * scale, output), layout.place(offset * scale + shift, output)
            changed = torch.addcmul(term, call.input.float(), factor).to(output.dtype)
            # complete samples keep the exact output of the layer
            used = layout.place(call.uses_rows().unsqueeze(1).expand(-1, call.site.channels), output)
            return torch.where(used, changed, output)


class BatchNormSSF(Kind):
    """SSF after BatchNorm layers only, to hold re-estimated statistics; filled by ``refit_batch_norm``."""

    targets = BatchNorms

    def bank(self, site: Site, rows: int) -> BatchNormSSFBank:
        return BatchNormSSFBank(rows, site.channels)


def batch_norm_names(network: nn.Module) -> list[str]:
    """List the names of the BatchNorm layers with running statistics.

    Raises:
        NoBatchNormError: If the network has no such layer.
    """
    layers = network.named_modules()
    names = [name for name, layer in layers if isinstance(layer, BatchNorms) and layer.running_mean is not None]
    if not names:
        raise NoBatchNormError(
            f"{type(network).__name__} has no BatchNorm with running statistics to refit; leave out bn_refit for this "
            "network (other norms keep no statistics, and track_running_stats=False uses batch statistics)"
        )
    return names


@torch.no_grad()
def refit_batch_norm(
    adapter: Adapter,
    network: nn.Module,
    batches: Iterable[Call],
    observed: Iterable[Tensor] | None = None,
    floor: float = FLOOR,
) -> None:
    """Re-estimate the BatchNorm statistics of every combination and write them to the rows of the adapter.

    For each combination a copy of the network runs over the batches with that combination, its BatchNorms in train mode
    with cumulative averages and everything else in eval mode. The network itself is not changed. A layer that does not
    run in a combination keeps the statistics of the base there.

    Args:
        adapter: An adapter of kind :class:`BatchNormSSF` (or SSF on BatchNorm layers only) with basis OneHot;
            BatchNorms that it does not adapt keep their statistics.
        network: The network that the adapter is, or will be, attached to.
        batches: Calls ``(args, kwargs)`` of the network, batch first, on its device. Absent inputs are filled, and
            ``available`` is passed on if the network takes it.
        observed: For each batch ``Bool[B, M]``, the modalities that were really observed; default: all. A sample counts
            for a combination if all of its modalities were observed; batches with fewer than two of these are skipped.
        floor: The smallest variance, as a share of the variance of the base, 0 to 1: scales are at most
            ``1 / sqrt(floor)``. Features of an absent modality are constant or nearly so; without a floor their scales
            are in the hundreds, and training on top of them explodes.

    Raises:
        NoBatchNormError: If the network has no BatchNorm with running statistics.
        LightningMMError: If the adapter has another kind or basis, a layer does more than a BatchNorm, a combination is
            never observed, or statistics are not finite.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_mm.adapters import BatchNormSSF, adapt, refit_batch_norm
        >>> class Sum(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.rgb, self.depth, self.norm = nn.Linear(3, 4), nn.Linear(1, 4), nn.BatchNorm1d(4)
        ...     def forward(self, rgb, depth):
        ...         return self.norm(self.rgb(rgb) + self.depth(depth))
        >>> network, call = Sum(), ((torch.randn(8, 3), torch.randn(8, 1)), {})
        >>> adapted = adapt(network, ["rgb", "depth"], BatchNormSSF(), example=call)
        >>> refit_batch_norm(adapted.adapter, network, [call])
        >>> alone = adapted(*call[0], available=torch.tensor([[True, False]]).expand(8, -1))
        >>> bool(alone.mean(0).abs().max() < 1e-5)
        True

    Reference:
        Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", arXiv 1603.04779.
    """
    check_fraction("floor", floor)
    names = _layers(adapter, network)
    calls = list(batches)
    size = len(adapter.modalities)
    seen = [torch.ones(_samples(adapter, call), size, dtype=torch.bool) for call in calls]
    if observed is not None:
        seen = [mask.cpu() for mask in observed]
        if [tuple(mask.shape) for mask in seen] != [(_samples(adapter, call), size) for call in calls]:
            raise LightningMMError(
                f"`observed` must be one Bool[B, {size}] for each of the {len(calls)} batches, got shapes "
                f"{[tuple(mask.shape) for mask in seen][:5]}"
            )
    bare, copied = copy.deepcopy((network, adapter))
    copied.detach()
    modules = dict(bare.named_modules())
    norms = {name: cast(BatchNorm, modules[name]) for name in names}
    base_statistics = {name: _statistics(norm) for name, norm in norms.items()}
    for row, combination in enumerate(adapter.basis.names):
        mask = adapter.modalities.mask(combination)
        used = [
            _select(adapter, network, call, mask_of_call[:, mask].all(1)) for call, mask_of_call in zip(calls, seen)
        ]
        enough = [call for call in used if _samples(adapter, call) >= MIN_SAMPLES]
        if not enough:
            raise LightningMMError(
                f"bn_refit of {combination!r}: none of {len(calls)} batches holds {MIN_SAMPLES} samples that observed "
                "all of its modalities; pass more or larger batches, or leave it out with OneHot(combinations=[...])"
            )
        _run(bare, norms, base_statistics, adapter, enough, mask.to(adapter.device), floor)
        for name, norm in norms.items():
            bank = cast(SSFBank, adapter.banks[bank_key(name)])
            _write(bank, row, norm, base_statistics[name], floor, f"{name!r} in combination {combination!r}")


def _layers(adapter: Adapter, network: nn.Module) -> list[str]:
    """Return the BatchNorms to refit; checks that the adapter can hold their statistics."""
    tracked = set(batch_norm_names(network))
    modules = dict(network.named_modules())
    others = [site.name for site in adapter.sites if not isinstance(modules.get(site.name), BatchNorms)]
    plain = all(isinstance(bank, SSFBank) for bank in adapter.banks.values())
    if not isinstance(adapter.basis, OneHot) or not plain or others:
        raise LightningMMError(
            "refit_batch_norm needs an adapter of kind BatchNormSSF with basis OneHot, got kind "
            f"{type(adapter.kind).__name__} with basis {type(adapter.basis).__name__}"
            + (f", which also adapts {others[0]!r}" if others else "")
        )
    more = [site.name for site in adapter.sites if site.name in tracked and not site.foldable]
    if more:
        raise LightningMMError(
            f"layer {more[0]!r} cannot be refitted: the forward of {type(modules[more[0]]).__name__} does more than "
            "a BatchNorm (e.g. an activation); leave it out with `exclude`"
        )
    return [site.name for site in adapter.sites if site.name in tracked]


def _run(
    network: nn.Module,
    norms: Mapping[str, BatchNorm],
    base: Mapping[str, tuple[Tensor, Tensor]],
    adapter: Adapter,
    calls: list[Call],
    mask: Tensor,
    floor: float,
) -> None:
    """Estimate the statistics of one combination in the BatchNorms of a copy of the network."""
    network.eval()
    average = _AverageOverSamples()
    handles = []
    for name, norm in norms.items():
        norm.reset_running_stats()
        norm.train()
        handles.append(norm.register_forward_pre_hook(average))
        if floor:
            handles.append(norm.register_forward_hook(_Floored(floor * base[name][1])))
    path = parameter_path(network, "available")
    for call in calls:
        average.size = _samples(adapter, call)
        available = mask.expand(average.size, -1)
        filled = fill_absent(path.put(call, available) if path else call, available, adapter.fill, adapter.paths)
        network(*filled[0], **filled[1])
    for handle in handles:
        handle.remove()


class _Floored:
    """A hook after a BatchNorm in train mode that puts a floor under the variance it divided by.

    Later layers then see what they will see with the rows of the adapter.

    Args:
        least: The smallest variance of each channel, ``[C]``.
    """

    def __init__(self, least: Tensor) -> None:
        self.least = least

    def __call__(self, norm: BatchNorm, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # many times faster than Tensor.var; the last one is 1 / sqrt(variance + eps)
        inverse = torch.native_batch_norm(args[0].float(), None, None, None, None, True, 0.0, norm.eps)[2]
        factor = (inverse.square() * (self.least.to(inverse) + norm.eps)).clamp(min=1).rsqrt()
        if bool((factor == 1).all()):
            return output
        shape = [1, -1, *[1] * (output.ndim - 2)]
        bias = torch.zeros_like(factor) if norm.bias is None else norm.bias.float()
        return (bias.view(shape) + (output.float() - bias.view(shape)) * factor.view(shape)).to(output.dtype)


class _AverageOverSamples:
    """A hook before a BatchNorm that weights each batch by its number of samples, so a small last one counts less."""

    def __init__(self) -> None:
        self.size = 0
        self._seen: dict[nn.Module, int] = {}

    def __call__(self, norm: BatchNorm, args: tuple[Tensor, ...]) -> None:
        seen = self._seen.get(norm, 0) + self.size
        self._seen[norm] = seen
        norm.momentum = self.size / seen


def _statistics(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Return mean and variance in float64, on the CPU since some devices do not support it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.to("cpu", torch.float64), norm.running_var.to("cpu", torch.float64)


def _write(bank: SSFBank, row: int, norm: BatchNorm, base: tuple[Tensor, Tensor], floor: float, where: str) -> None:
    mean, var = base
    if norm.num_batches_tracked:  # otherwise it did not run
        mean, var = _statistics(norm)
    if not (mean.isfinite().all() and var.isfinite().all()):
        raise LightningMMError(f"bn_refit: the statistics of layer {where} are not finite; check the inputs for NaN")
    deviation = (torch.maximum(var, floor * base[1]) + norm.eps).sqrt()
    scale = (base[1] + norm.eps).sqrt() / deviation
    weight = torch.ones_like(mean) if norm.weight is None else norm.weight.to("cpu", torch.float64)
    bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.to("cpu", torch.float64)
    assert bank.scale is not None
    assert bank.shift is not None
    bank.scale[row] = (scale - 1).to(bank.scale)
    bank.shift[row] = (bias * (1 - scale) + weight * (base[0] - mean) / deviation).to(bank.shift)


def _samples(adapter: Adapter, call: Call) -> int:
    sizes = (batch_size(path.get(call)) for path in adapter.paths.values())
    return next((size for size in sizes if size is not None), 0)


def _select(adapter: Adapter, network: nn.Module, call: Call, keep: Tensor) -> Call:
    """Return the chosen samples (``Bool[B]``) of a call."""
    return call if keep.all() else take_samples(network, call, keep.nonzero().flatten(), len(keep), adapter.for_all)
