"""Banks that predict the outputs of encoders, in a folded network: no change of weights can do what they do.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn

from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.call import AdapterCall, Current
from lightning_mm.adapters.encoders_first import EncodedForward, TwoStepForward
from lightning_mm.adapters.hooks import SiteHook
from lightning_mm.adapters.kinds.base import Bank
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.encoded import Encoded
from lightning_mm.adapters.network.inputs import Call


class Predictions(nn.Module):
    """The banks behind the encoders for one combination; a part of the folded network, so that it moves with it.

    Args:
        network: The copy of the base, without hooks of the adapter; those of these banks are registered on it.
        banks: Sites and banks, see ``Bank.behind_encoder``.
        basis: How availability picks rows.
        available: The combination as ``Bool[M]``.
        fixed: Names of encoders of absent modalities, which are cheap and may run in both steps.
    """

    available: Bool[Tensor, " modality"]

    def __init__(
        self,
        network: nn.Module,
        banks: Sequence[tuple[Site, Bank]],
        basis: Basis,
        available: Bool[Tensor, " modality"],
        fixed: Collection[str],
    ) -> None:
        super().__init__()
        self.current, self.basis = Current(), basis
        self.banks = nn.ModuleList([bank for _, bank in banks]).requires_grad_(False)
        self.register_buffer("available", available.clone(), persistent=False)
        TwoStepForward(network, self.current)
        for site, bank in banks:
            module = network.get_submodule(site.name)
            if site.name not in fixed:
                EncodedForward(module, site.name, self.current)
            module.register_forward_hook(SiteHook(self.current, site, bank), with_kwargs=True)

    def run(self, network: nn.Module, call: Call, size: int) -> Any:
        """Run the network on ``size`` samples."""
        one = self.available.unsqueeze(0)
        state = AdapterCall(self.basis, one, self.basis.route(one))
        state.encoded = Encoded(one.expand(size, -1), len(self.banks))
        self.current.begin(state)
        try:
            return network(*call[0], **call[1])
        finally:
            self.current.end()
