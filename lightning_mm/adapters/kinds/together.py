"""Several kinds at once, e.g. a low-rank change of the weights followed by a scale and a shift.

On a layer that several kinds adapt, they act one after another: first the kinds that need the input of the layer (such
as changes of its weight), then the kinds that only change its output, each in the order of the list.

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
    """The banks of several kinds at one layer, keyed by the position of their kind in the list."""

    def __init__(self, banks: Mapping[int, Bank]) -> None:
        super().__init__()
        self.banks = nn.ModuleDict({str(place): bank for place, bank in banks.items()})
        self.changes_input = any(bank.changes_input for bank in banks.values())
        self.foldable = all(bank.foldable for bank in banks.values() if bank.at_layer)

    @property
    def at_layer(self) -> bool:
        return bool(self.in_order())

    def in_order(self) -> list[Bank]:
        """Return the banks at the layer in the order in which they act: first those that read its input."""
        banks = [cast(Bank, bank) for bank in self.banks.values()]
        banks = [bank for bank in banks if bank.at_layer]
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
    """Several kinds; each adapts the layers it selects, and one layer may have a bank of each.

    Args:
        kinds: For example ``[SSF(), LoRA(rank=4)]``, or with an unrestricted change of the head:
            ``[SSF(), LoRA(rank=10_000, layers=["head*"])]``.

    Raises:
        LightningMMError: If the list is empty or contains another ``Together``; later, if one of the kinds adapts no
            layer of the network.
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
        return self.choose_encoders(network, (), {})

    def choose_encoders(
        self, network: nn.Module, modalities: Sequence[str], encoders: Mapping[str, str]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        chosen, refused = zip(*(kind.choose_encoders(network, modalities, encoders) for kind in self.kinds))
        details: dict[str, dict[str, Any]] = {
            name: {"kinds": [layers.get(name) for layers in chosen]}
            for name, _ in network.named_modules()
            if any(name in layers for layers in chosen)
        }
        for about in details.values():
            axes = [part["channel_axis"] for part in about["kinds"] if part and "channel_axis" in part]
            about |= {"channel_axis": axes[0]} if axes else {}
        reasons = {name: reason for layers in refused for name, reason in layers.items() if name not in details}
        pairs = [(type(kind).__name__, layers) for kind, layers in zip(self.kinds, refused)]
        partly = [f"{name} by {kind} ({layers[name]})" for kind, layers in pairs for name in layers if name in details]
        if partly:
            warnings.warn(
                f"{len(partly)} layers are left out of a part of the adapter: {'; '.join(partly)}", stacklevel=5
            )
        return details, reasons

    def idle(self, sites: Sequence[Site]) -> str | None:
        for place, kind in enumerate(self.kinds):
            parts = [(site, site.details["kinds"][place]) for site in sites]
            own = [replace(site, details=details) for site, details in parts if details is not None]
            if not own:
                return f"{type(kind).__name__} (number {place + 1} of Together)"
            kind.idle(own)
        return None

    def bank(self, site: Site, rows: int) -> TogetherBank:
        parts = enumerate(zip(self.kinds, site.details["kinds"]))
        return TogetherBank(
            {i: kind.bank(replace(site, details=details), rows) for i, (kind, details) in parts if details is not None}
        )
