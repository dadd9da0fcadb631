"""Several kinds at once, e.g. a low-rank change of the weights and then a scale and a shift.

On a layer that several of them are for they act one after the other: first what adds to the layer's weight (it needs
the input of the layer), then what changes its output, each in the order of the list.

Shapes: K rows of the basis.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.adapters.call import LayerCall
from lightning_mm.adapters.kinds.base import Bank, Kind
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.errors import LightningMMError


class TogetherBank(Bank):
    """The banks of several kinds at one layer, under the place of their kind in the list."""

    def __init__(self, banks: Mapping[int, Bank]) -> None:
        super().__init__()
        self.banks = nn.ModuleDict({str(place): bank for place, bank in banks.items()})
        self.changes_input = any(bank.changes_input for bank in banks.values())

    def in_order(self) -> list[Bank]:
        """First those that read the input of the layer, see the top of this file."""
        banks = [cast(Bank, bank) for bank in self.banks.values()]
        return sorted(banks, key=lambda bank: not bank.needs_input)

    def enter(self, call: LayerCall) -> Call:
        for bank in self.in_order():
            call.args, call.kwargs = bank.enter(call)
        return call.args, call.kwargs

    def leave(self, call: LayerCall, output: Float[Tensor, " *output"]) -> Float[Tensor, " *changed"]:
        for bank in self.in_order():
            output = bank.leave(call, output)
        return output

    def fold(self, call: LayerCall) -> None:
        for bank in self.in_order():
            bank.fold(call)


class Together(Kind):
    """Several kinds; each goes to the layers that it is for, and a layer may have a bank of each.

    Args:
        kinds: For example ``[SSF(), LoRA(rank=4)]``, or a full change of the head alone:
            ``[SSF(), LoRA(rank=10_000, layers=["head*"])]``.

    Raises:
        LightningMMError: If there is none, or one of them holds several itself; when it meets a network, if one of them
            has no layer there.
    """

    def __init__(self, kinds: list[Kind]) -> None:
        if not kinds or any(isinstance(kind, Together) for kind in kinds):
            names = [type(kind).__name__ for kind in kinds]
            raise LightningMMError(
                f"Together needs a list of kinds such as [SSF(), LoRA()], and no Together among them; got {names}"
            )
        self.kinds = list(kinds)
        self.targets = tuple(dict.fromkeys(target for kind in kinds for target in kind.targets))

    def choose(self, network: nn.Module) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        chosen, refused = zip(*(kind.choose(network) for kind in self.kinds))
        details: dict[str, dict[str, Any]] = {
            name: {"kinds": [found.get(name) for found in chosen]}
            for name, _ in network.named_modules()
            if any(name in found for found in chosen)
        }
        for about in details.values():
            axes = [own["channel_axis"] for own in about["kinds"] if own and "channel_axis" in own]
            about |= {"channel_axis": axes[0]} if axes else {}
        reasons = {name: reason for found in refused for name, reason in found.items() if name not in details}
        pairs = [(type(kind).__name__, found) for kind, found in zip(self.kinds, refused)]
        partly = [f"{name} by {kind} ({found[name]})" for kind, found in pairs for name in found if name in details]
        if partly:
            warnings.warn(
                f"{len(partly)} layers are left out of a part of the adapter: {'; '.join(partly)}", stacklevel=5
            )
        return details, reasons

    def idle(self, sites: Sequence[Site]) -> str | None:
        for place, kind in enumerate(self.kinds):
            if all(site.details["kinds"][place] is None for site in sites):
                return f"{type(kind).__name__} (number {place + 1} of Together)"
        return None

    def bank(self, site: Site, rows: int) -> TogetherBank:
        parts = enumerate(zip(self.kinds, site.details["kinds"]))
        return TogetherBank(
            {i: kind.bank(replace(site, details=own), rows) for i, (kind, own) in parts if own is not None}
        )
