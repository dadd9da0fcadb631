"""The plain network of one combination: adapter folded into the weights, absent inputs filled, no hooks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.call import AdapterCall, LayerCall
from lightning_mm.adapters.folded.constants import OneRowForward, fold_constant_encoders
from lightning_mm.adapters.network.inputs import Call, InputPath, parameter_path
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Fill
from lightning_mm.tree import batch_size


class Folded(nn.Module):
    """A copy of the base for one combination; called like the base, at the cost of the base.

    Args:
        network: The base with the adapter folded into its weights.
        combination: Its name, for messages.
        available: The combination as ``Bool[M]``.
        fill: Placeholder for absent inputs; with None inputs are not changed.
        paths: Path to the input of each modality in a call.
    """

    available: Bool[Tensor, " modality"]

    def __init__(
        self,
        network: nn.Module,
        combination: str,
        available: Bool[Tensor, " modality"],
        fill: Fill | None,
        paths: Mapping[str, InputPath],
    ) -> None:
        super().__init__()
        self.network, self.combination, self.fill, self.paths = network, combination, fill, dict(paths)
        self.available_path = parameter_path(network, "available")
        self.register_buffer("available", available, persistent=False)
        self.present = available.tolist()
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call: Call = (args, kwargs)
        values = {name: path.get(call) for name, path in self.paths.items()}
        size = next((size for value in values.values() if (size := batch_size(value)) is not None), None)
        if size is None:
            raise LightningMMError(
                f"the network folded for {self.combination!r} was called without any input of {list(self.paths)}; "
                "pass at least one, which gives the batch size"
            )
        for (name, path), present in zip(self.paths.items(), self.present):
            if not present and self.fill is not None and values[name] is not None:
                none_available = torch.zeros(size, dtype=torch.bool, device=self.available.device)
                call = path.put(call, self.fill(name, values[name], none_available))
        if self.available_path is not None:
            call = self.available_path.put(call, self.available.expand(size, -1))
        return self.network(*call[0], **call[1])

    def train(self, mode: bool = True) -> Folded:
        """Stay in eval mode: a folded network is for inference."""
        return super().train(False)


@torch.no_grad()
def fold_network(base: nn.Module, adapter: Adapter, combination: str, example: Call | None = None) -> Folded:
    """Fold the adapter of one combination into a copy of the base.

    The weights of adapted layers change, so a network that also reads them elsewhere (tied weights,
    ``x @ layer.weight``) must not be folded; if in doubt, compare with the hooks on an example.

    Args:
        base: The network that the adapter is attached to; not changed.
        adapter: The adapter.
        combination: Its name.
        example: See :meth:`Adapted.fold`.

    Raises:
        LightningMMError: If the combination does not exist, a layer cannot be folded (it is named), or an encoder
            cannot become a constant.
    """
    name = adapter.modalities.canonical(combination)
    network, copied = copy.deepcopy((base, adapter))
    copied.detach()
    network.requires_grad_(False)
    available = adapter.modalities.mask(name).to(adapter.device)
    if name != adapter.modalities.full:
        one = available.unsqueeze(0)
        call = AdapterCall(copied.basis, one, copied.basis.route(one))
        modules = dict(network.named_modules())
        for site in copied.sites:
            if not site.foldable:
                kind = type(modules[site.name]).__name__
                raise LightningMMError(
                    f"layer {site.name!r} cannot be folded: the forward of {kind} does more than apply its weights (an "
                    "activation, standardised weights); keep the hooks, or leave the layer out with `exclude`"
                )
            try:
                copied.bank(site).fold(LayerCall(call, site, modules[site.name]))
            except LightningMMError as error:
                raise LightningMMError(f"layer {site.name!r} cannot be folded: {error}") from None
    for modality, encoder in copied.encoders.items():
        if modality not in adapter.modalities.parse(name):
            module = network.get_submodule(encoder)
            module.forward = OneRowForward(module, modality)
    folded = Folded(network, name, available, copied.fill, copied.paths)
    if example is not None:
        fold_constant_encoders(folded, name, example)
    return folded
