"""Biases only: each combination has its own biases in the layers that have a bias.

Reference: Ben Zaken et al., "BitFit", ACL 2022.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_mm.adapters.kinds.base import Kind
from lightning_mm.adapters.kinds.ssf import SSFBank
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.types import Adaptable


class BitFit(Kind):
    """A change of the existing biases of linear, convolution and normalisation layers; identity at the start.

    Layers without a bias are skipped (:class:`ShiftOnly` adapts them too). In ``nn.MultiheadAttention`` only the bias
    of the output projection changes: the biases of queries, keys and values are added inside the layer.
    """

    targets = Adaptable

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        every, reasons = super().choose(network)
        return {name: details for name, details in every.items() if _has_bias(network.get_submodule(name))}, reasons

    def bank(self, site: Site, rows: int) -> SSFBank:
        return SSFBank(rows, site.channels, ("shift",))


def _has_bias(module: nn.Module) -> bool:
    holder = module.out_proj if isinstance(module, nn.MultiheadAttention) else module
    return getattr(holder, "bias", None) is not None
