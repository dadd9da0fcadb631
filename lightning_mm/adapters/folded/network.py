"""The plain network of one combination: adapter folded into the weights, absent inputs filled, no hooks."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lightning_mm.adapters.adapter import Adapter, bank_key
from lightning_mm.adapters.call import AdapterCall, LayerCall
from lightning_mm.adapters.folded.at_output import AtOutput, Places, adapted_layers
from lightning_mm.adapters.folded.constants import OneRowForward, fold_constant_encoders
from lightning_mm.adapters.folded.predictions import Predictions
from lightning_mm.adapters.folded.proof import Proof
from lightning_mm.adapters.hooks import predictions
from lightning_mm.adapters.kinds.base import Bank
from lightning_mm.adapters.layers.fold import refuse_parametrised
from lightning_mm.adapters.layers.half import HALF
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.layers.own_call import own_call, weight_holder
from lightning_mm.adapters.network.inputs import Call, InputPath, parameter_path
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Fill
from lightning_mm.tree import batch_size

log = logging.getLogger(__name__)


class Folded(nn.Module):
    """A copy of the base for one combination; called like the base, at the cost of the base.

    Args:
        network: The base with the adapter folded into its weights.
        combination: Its name, for messages.
        available: The combination as ``Bool[M]``.
        fill: Placeholder for absent inputs; with None inputs are not changed.
        paths: Path to the input of each modality in a call.
        at_output: Adapters of layers whose weights could not hold them.
        predictions: Banks that predict the outputs of encoders.
    """

    available: Bool[Tensor, " modality"]

    def __init__(
        self,
        network: nn.Module,
        combination: str,
        available: Bool[Tensor, " modality"],
        fill: Fill | None,
        paths: Mapping[str, InputPath],
        at_output: Mapping[str, AtOutput] = MappingProxyType({}),
        predictions: Predictions | None = None,
    ) -> None:
        super().__init__()
        self.network, self.combination, self.fill, self.paths = network, combination, fill, dict(paths)
        self.available_path = parameter_path(network, "available")
        self.register_buffer("available", available, persistent=False)
        self.present = available.tolist()
        if at_output:
            self.at_output = nn.ModuleDict(at_output).requires_grad_(False)
        self.predictions = predictions
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
        if self.predictions is not None:
            return self.predictions.run(self.network, call, size)
        return self.network(*call[0], **call[1])

    def train(self, mode: bool = True) -> Folded:
        """Stay in eval mode: a folded network is for inference."""
        return super().train(False)


@torch.no_grad()
def fold_network(
    base: nn.Module, adapter: Adapter, combination: str, example: Call | None = None, prove: bool = True
) -> Folded:
    """Fold the adapter of one combination into a copy of the base.

    The copy is compared with the base on an example: a network that, say, also reads the weights of an adapted layer
    elsewhere (``x @ layer.weight``) cannot be folded. An adapter that was loaded has no example of its own. Layers with
    hooks of the user or a ``forward`` of their own keep their weights, and the adapter at their output.

    Args:
        base: The network that the adapter is attached to; not changed.
        adapter: The adapter.
        combination: Its name.
        example: See :meth:`Adapted.fold`.
        prove: Whether to compare; False if the caller does.

    Raises:
        LightningMMError: If the combination does not exist, a layer cannot be folded or makes the copy differ (it is
            named), or an encoder cannot become a constant.
    """
    name = adapter.modalities.canonical(combination)
    network, copied = copy.deepcopy((base, adapter))
    complete = name == adapter.modalities.full
    layers = {} if complete else _layers(network, copied)
    places = {site: Places(module) for site, module in layers.items()}
    copied.detach()
    network.requires_grad_(False)
    available = adapter.modalities.mask(name).to(adapter.device)
    kept: dict[str, AtOutput] = {}
    if not complete:
        one = available.unsqueeze(0)
        call = AdapterCall(copied.basis, one, copied.basis.route(one))
        half = next((one.dtype for one in network.parameters() if one.dtype in HALF), None)
        for site in copied.sites:
            bank, module = copied.bank(site), layers[site.name]
            if not bank.at_layer:
                continue
            cause = _check(network, site, bank, module)
            if cause is None:
                holder = weight_holder(module)
                absent = [key for key, parameter in holder._parameters.items() if parameter is None]
                try:
                    bank.fold(LayerCall(call, site, module))
                except LightningMMError as error:
                    raise LightningMMError(f"layer {site.name!r} cannot be folded: {error}") from None
                for key in absent:  # a norm layer that had no weights
                    made = holder._parameters[key]
                    if half is not None and made is not None:
                        made.data = made.to(half)
            else:
                log.warning("layer %r, folded for %r: its adapter stays at its output, as %s", site.name, name, cause)
                kept[bank_key(site.name)] = AtOutput(site, bank, copied.basis, available)
                places[site.name].put(kept[bank_key(site.name)])
    for modality, encoder in copied.encoders.items():
        if modality not in adapter.modalities.parse(name):
            module = network.get_submodule(encoder)
            module.forward = OneRowForward(module, modality)
    banks = [] if complete else predictions([(site, copied.bank(site)) for site in copied.sites])
    fixed = [one for modality, one in copied.encoders.items() if modality not in adapter.modalities.parse(name)]
    predicted = Predictions(network, banks, copied.basis, available, fixed) if banks else None
    folded = Folded(network, name, available, copied.fill, copied.paths, kept, predicted)
    proving = example if example is not None else adapter.example
    if prove and not complete and proving is not None and adapter.attached:
        originals = _layers(base, adapter)
        changed = [one.name for one in copied.sites if copied.bank(one).at_layer and bank_key(one.name) not in kept]
        pairs = {site: (originals[site], layers[site]) for site in changed}
        Proof(base, adapter, available, proving, pairs).check(folded, name, given=example is not None)
    if example is not None:
        fold_constant_encoders(folded, name, example)
    return folded


def _layers(network: nn.Module, adapter: Adapter) -> dict[str, nn.Module]:
    """Return the layers that carry the hooks of the adapter, by the name of their site."""
    if not adapter.attached:
        return {site.name: network.get_submodule(site.name) for site in adapter.sites}
    found = adapted_layers(network, {site.name: adapter.bank(site) for site in adapter.sites})
    gone = [site.name for site in adapter.sites if site.name not in found]
    if gone:
        raise LightningMMError(
            f"layer {gone[0]!r} cannot be folded: it was replaced after the network was adapted, so its adapter no "
            "longer acts; adapt the network as it is now"
        )
    return found


def _check(network: nn.Module, site: Site, bank: Bank, module: nn.Module) -> str | None:
    """Return why the adapter of a layer stays at its output, or None if it is folded into the weights.

    Raises:
        LightningMMError: If the layer can be neither.
    """
    kind = type(module).__name__
    if not site.foldable:
        raise LightningMMError(
            f"layer {site.name!r} cannot be folded: the forward of {kind} does more than apply its weights (an "
            "activation, standardised weights); keep the hooks, or leave the layer out with `exclude`"
        )
    around = [one for one in network.modules() if getattr(vars(one).get("forward"), "__closure__", None)]
    around = [
        one for one in around if one is not module and "_orig_mod" not in one._modules
    ]  # torch.compile copies well
    around = [one for one in around if any(part is module for part in one.modules())]
    if around:
        raise LightningMMError(
            f"layer {site.name!r} cannot be folded: {type(around[0]).__name__}, which contains it, has a function as "
            "its `forward`, set on the object, which a copy of the network may share with the original; define it in "
            "the class, or keep the hooks"
        )
    try:
        refuse_parametrised(weight_holder(module))
    except LightningMMError as error:
        raise LightningMMError(f"layer {site.name!r} cannot be folded: {error}") from None
    return own_call(module) if bank.foldable else None
