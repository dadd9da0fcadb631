"""BatchNorm statistics of each combination, as rows of an adapter: computed from data, nothing is trained.

A BatchNorm with statistics (mean, var), weight g and bias b puts out ``y``; with those of a combination (mean_c, var_c)
it puts out ``y * s + t`` where ``s = sqrt(var + eps) / sqrt(var_c + eps)`` and
``t = b * (1 - s) + g * (mean - mean_c) / sqrt(var_c + eps)``. That is one SSF row on its output, so that routing in
mixed batches, saving and folding are those of any adapter. It is computed from the input of the BatchNorm in float32:
where features hardly vary, s is large, and y in half precision has lost what matters.

Shapes: B samples, M modalities, K rows of the basis, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter, bank_key
from lightning_mm.adapters.basis import Basis, OneHot
from lightning_mm.adapters.kinds.base import Kind, Mixed
from lightning_mm.adapters.kinds.ssf import SSFBank
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call, batch_size, map_tensors, parameter_path
from lightning_mm.errors import LightningMMError, NotApplicableError

BatchNorms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
BatchNorm = nn.modules.batchnorm._BatchNorm
"""What the types above have in common."""
FEWEST = 2
"""Samples in a batch without which there is no variance to speak of."""


class NoBatchNormError(NotApplicableError):
    """The network has no BatchNorm with running statistics, so there is nothing to re-estimate."""


class BatchNormSSFBank(SSFBank):
    """A scale and a shift after a BatchNorm that act on what it was given, together with its own.

    Statistics of features that hardly vary make both large; applied to an output in half precision, their difference
    would be lost.
    """

    needs_input = True

    def forward(
        self,
        output: Float[Tensor, " *output"],
        route: Shaped[Tensor, " batch *route"] | Mixed,
        basis: Basis,
        site: Site,
        layer: nn.Module | None = None,
        given: Float[Tensor, " *output"] | None = None,
    ) -> Float[Tensor, " *output"]:
        assert isinstance(layer, BatchNorm)
        assert given is not None
        if layer.running_mean is None or layer.running_var is None:
            return super().forward(output, route, basis, site)
        scale, shift = self.coefficients(route, basis)
        plain = route.route if isinstance(route, Mixed) else route
        assert scale is not None
        assert shift is not None
        layout = site.layout(output)
        with torch.autocast(output.device.type, enabled=False):
            own = (layer.running_var.float() + layer.eps).rsqrt()
            own = own if layer.weight is None else own * layer.weight.float()
            offset = -layer.running_mean.float() * own
            offset = offset if layer.bias is None else offset + layer.bias.float()
            factor, term = layout.place(own * scale, output), layout.place(offset * scale + shift, output)
            changed = torch.addcmul(term, given.float(), factor).to(output.dtype)
            # samples that lack nothing keep the very output of the layer
            used = layout.place(basis.uses(plain).unsqueeze(1).expand(-1, site.channels), output)
            return torch.where(used, changed, output)

    def overwrite(
        self,
        output: Float[Tensor, " *output"],
        route: Shaped[Tensor, " batch *route"] | Mixed,
        basis: Basis,
        site: Site,
        *given: Any,
    ) -> Float[Tensor, " *output"]:
        changed: Tensor = self(output, route, basis, site, *given)
        return changed

    def divisor(self) -> None:
        return None


class BatchNormSSF(Kind):
    """SSF after BatchNorm layers only, the form that re-estimated statistics take; filled by ``refit_batch_norm``."""

    targets = BatchNorms

    def bank(self, site: Site, rows: int) -> BatchNormSSFBank:
        return BatchNormSSFBank(rows, site.channels)


def batch_norm_names(network: nn.Module) -> list[str]:
    """Names of the BatchNorm layers with running statistics.

    Raises:
        NoBatchNormError: If there is none.
    """
    layers = network.named_modules()
    names = [name for name, layer in layers if isinstance(layer, BatchNorms) and layer.running_mean is not None]
    if not names:
        raise NoBatchNormError(
            f"{type(network).__name__} has no BatchNorm with running statistics to refit; leave bn_refit out for this "
            "network (other norms keep none, and track_running_stats=False uses those of each batch)"
        )
    return names


@torch.no_grad()
def refit_batch_norm(
    adapter: Adapter, network: nn.Module, batches: Iterable[Call], observed: Iterable[Tensor] | None = None
) -> None:
    """Estimate the BatchNorm statistics of every combination anew and write them to the rows of the adapter.

    For each combination a copy of the network runs over the batches with that combination, its BatchNorms in train mode
    with cumulative averages and all else in eval mode. The network itself is not changed. A layer that does not run in
    a combination keeps the statistics of the base there.

    Args:
        adapter: Of kind :class:`BatchNormSSF` (or SSF on BatchNorm layers only) and basis OneHot; BatchNorms that it
            does not adapt keep their statistics.
        network: The network that it is, or will be, attached to.
        batches: Calls ``(args, kwargs)`` of the network, batch first, on its device. What stands in absent places is
            filled, and ``available`` handed on where the network takes it.
        observed: For each batch ``Bool[B, M]``, what is really there; default: everything. A sample counts for the
            combinations of whose modalities it observed all; batches with fewer than two such samples are left out.

    Raises:
        NoBatchNormError: If the network has no BatchNorm with running statistics.
        LightningMMError: If the adapter is of another form, a layer does more than its BatchNorm, a combination is
            observed nowhere, or statistics are not finite.

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
    of_base = {name: _statistics(norm) for name, norm in norms.items()}
    for row, combination in enumerate(adapter.basis.names):
        mask = adapter.modalities.mask(combination)
        used = [_select(call, mask_of_call[:, mask].all(1)) for call, mask_of_call in zip(calls, seen)]
        enough = [call for call in used if _samples(adapter, call) >= FEWEST]
        if not enough:
            raise LightningMMError(
                f"bn_refit of {combination!r}: none of {len(calls)} batches holds {FEWEST} samples that observed all "
                "of its modalities; give more or larger batches, or leave it out with OneHot(combinations=[...])"
            )
        _run(bare, norms, adapter, enough, mask.to(adapter.device))
        for name, norm in norms.items():
            bank = cast(SSFBank, adapter.banks[bank_key(name)])
            _write(bank, row, norm, of_base[name], f"{name!r} in combination {combination!r}")


def _layers(adapter: Adapter, network: nn.Module) -> list[str]:
    """The BatchNorms to refit, after a check that the adapter has the form of other statistics."""
    tracked = set(batch_norm_names(network))
    modules = dict(network.named_modules())
    others = [site.name for site in adapter.sites if not isinstance(modules.get(site.name), BatchNorms)]
    plain = all(isinstance(bank, SSFBank) for bank in adapter.banks.values())
    if not isinstance(adapter.basis, OneHot) or not plain or others:
        raise LightningMMError(
            "refit_batch_norm needs an adapter of kind BatchNormSSF with basis OneHot, got kind "
            f"{type(adapter.kind).__name__} with basis {type(adapter.basis).__name__}"
            + (f", which adapts {others[0]!r} too" if others else "")
        )
    more = [site.name for site in adapter.sites if site.name in tracked and not site.foldable]
    if more:
        raise LightningMMError(
            f"layer {more[0]!r} cannot be refitted: the forward of {type(modules[more[0]]).__name__} does more than "
            "its BatchNorm (an activation); leave it out with `exclude`"
        )
    return [site.name for site in adapter.sites if site.name in tracked]


def _run(network: nn.Module, norms: Mapping[str, BatchNorm], adapter: Adapter, calls: list[Call], mask: Tensor) -> None:
    """Leave the statistics of one combination in the BatchNorms of a copy of the network."""
    network.eval()
    average = _AverageOverSamples()
    for norm in norms.values():
        norm.reset_running_stats()
        norm.train()
        norm.register_forward_pre_hook(average)
    path = parameter_path(network, "available")
    for call in calls:
        average.size = _samples(adapter, call)
        available = mask.expand(average.size, -1)
        filled = adapter.fill_absent(path.put(call, available) if path else call, available)
        network(*filled[0], **filled[1])


class _AverageOverSamples:
    """Before a BatchNorm runs: gives each batch the weight of its samples, so that a small last one counts for less."""

    def __init__(self) -> None:
        self.size = 0
        self._seen: dict[nn.Module, int] = {}

    def __call__(self, norm: BatchNorm, args: tuple[Tensor, ...]) -> None:
        seen = self._seen.get(norm, 0) + self.size
        self._seen[norm] = seen
        norm.momentum = self.size / seen


def _statistics(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Mean and variance in float64; on the CPU, as some devices have no such numbers."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean.to("cpu", torch.float64), norm.running_var.to("cpu", torch.float64)


def _write(bank: SSFBank, row: int, norm: BatchNorm, base: tuple[Tensor, Tensor], where: str) -> None:
    mean, var = base
    if norm.num_batches_tracked:  # else it did not run
        mean, var = _statistics(norm)
    if not (mean.isfinite().all() and var.isfinite().all()):
        raise LightningMMError(f"bn_refit: the statistics of layer {where} are not finite; look for NaN in the inputs")
    deviation = (var + norm.eps).sqrt()
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


def _select(call: Call, keep: Tensor) -> Call:
    """The chosen samples (``Bool[B]``) of every tensor of a call."""
    if keep.all():
        return call

    def rows(tensor: Tensor) -> Tensor:
        return tensor[keep.to(tensor.device)] if tensor.ndim and len(tensor) == len(keep) else tensor

    return map_tensors(tuple(call[0]), rows), map_tensors(dict(call[1]), rows)
