"""An adapter that starts from the BatchNorm statistics of each combination, instead of from the identity.

Shapes: K rows of the basis, N incomplete combinations, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.basis import OneHot
from lightning_mm.adapters.kinds.bn_refit import FLOOR, BatchNormSSF, batch_norm_names, refit_batch_norm
from lightning_mm.adapters.kinds.ssf import SSFBank
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.errors import LightningMMError


@torch.no_grad()
def start_from_statistics(
    adapter: Adapter,
    network: nn.Module,
    batches: Iterable[Call],
    observed: Iterable[Tensor] | None = None,
    floor: float = FLOOR,
) -> list[str]:
    """Write re-estimated BatchNorm statistics to the scales and shifts of an adapter, as a start for its training.

    :func:`refit_batch_norm` gives one row per combination and layer; the rows of the adapter are those whose sum is
    nearest to them (least squares), so with basis OneHot they are the same. No labels are used.

    Args:
        adapter: Has a scale and a shift (SSF, alone or in Together) after at least one BatchNorm; whatever else it
            learns stays as it is. Attached to the network, or to none.
        network: The base.
        batches: See :func:`refit_batch_norm`, as ``observed`` and ``floor``.

    Returns:
        The names of the BatchNorm layers.

    Raises:
        NoBatchNormError: If the network has no BatchNorm with running statistics.
        LightningMMError: If the adapter has no scale and shift after one; or as :func:`refit_batch_norm` does.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_mm.adapters import SSF, Additive, adapt, start_from_statistics
        >>> class Sum(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.rgb, self.depth, self.norm = nn.Linear(3, 4), nn.Linear(1, 4), nn.BatchNorm1d(4)
        ...     def forward(self, rgb, depth):
        ...         return self.norm(self.rgb(rgb) + self.depth(depth))
        >>> network, call = Sum(), ((torch.randn(8, 3), torch.randn(8, 1)), {})
        >>> adapted = adapt(network, ["rgb", "depth"], SSF(), basis=Additive(), example=call)
        >>> start_from_statistics(adapted.adapter, network, [call])
        ['norm']
        >>> alone = adapted(*call[0], available=torch.tensor([[True, False]]).expand(8, -1))
        >>> bool(alone.mean(0).abs().max() < 1e-5)
        True

    Reference:
        Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", arXiv 1603.04779.
    """
    tracked = set(batch_norm_names(network))
    sites = [site for site in adapter.sites if site.name in tracked]
    found = [(site, bank) for site in sites for bank in scales_and_shifts(adapter, site)]
    if not found:
        raise LightningMMError(
            "a start from BatchNorm statistics needs a scale and a shift after a BatchNorm, and this adapter of kind "
            f"{type(adapter.kind).__name__} has none; use SSF, alone or in Together, and do not exclude these layers"
        )
    # of a basis that looks rows up, only its combinations: others may never be observed, and none gets two of them
    listed = list(adapter.basis.names) if isinstance(adapter.basis, OneHot) else None
    holder = Adapter(
        BatchNormSSF(),
        OneHot(listed),
        adapter.modalities,
        copy.deepcopy(adapter.fill),
        [site for site, _ in found],
        adapter.paths,
        for_all=adapter.for_all,
    ).to(adapter.device)
    attached = adapter.attached
    adapter.detach()  # the statistics are those of the base
    try:
        refit_batch_norm(holder, network, batches, observed, floor)
    finally:
        if attached:
            adapter.attach(network)
    solve = torch.linalg.pinv(_used(adapter, holder.basis.names))
    for site, bank in found:
        for mine, theirs in zip((bank.scale, bank.shift), holder.bank(site).parameters()):
            assert mine is not None
            mine.copy_((solve @ theirs.double().cpu()).to(mine))
    return [site.name for site, _ in found]


def scales_and_shifts(adapter: Adapter, site: Site) -> Iterator[SSFBank]:
    """Yield the bank of a site, or the part of it, that has both a scale and a shift per row of the basis."""
    for bank in adapter.bank(site).modules():
        if isinstance(bank, SSFBank) and bank.scale is not None and bank.shift is not None:
            yield bank
            return


def _used(adapter: Adapter, combinations: tuple[str, ...]) -> Tensor:
    """Return what each combination adds up of the rows of the basis, ``Float64[N, K]``."""
    masks = adapter.modalities.masks(combinations).to(adapter.device)
    rows = torch.eye(len(adapter.basis.names), device=adapter.device)
    return adapter.basis.mix(adapter.basis.route(masks), rows).double().cpu()
