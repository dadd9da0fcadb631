"""Adapters that stay at the output of a layer in a folded network, since its weights alone do not decide its output.

They act where the hooks of the adapter did: between the same hooks of the user.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn

from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.call import AdapterCall, LayerCall
from lightning_mm.adapters.hooks import EntryHook, SiteHook
from lightning_mm.adapters.kinds.base import Bank
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call


class AtOutput(nn.Module):
    """The bank of one layer for one combination; a part of the folded network, so that it moves with it.

    Args:
        site: The layer.
        bank: Its bank.
        basis: How availability picks rows from the bank.
        available: The combination as ``Bool[M]``.
    """

    available: Bool[Tensor, " modality"]

    def __init__(self, site: Site, bank: Bank, basis: Basis, available: Bool[Tensor, " modality"]) -> None:
        super().__init__()
        self.site, self.bank, self.basis = site, bank, basis
        self.register_buffer("available", available.clone(), persistent=False)

    def call_of(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LayerCall:
        """Return the view of the bank on one call of its layer, in which all samples share one row."""
        one = self.available.unsqueeze(0)
        return LayerCall(AdapterCall(self.basis, one, self.basis.route(one)), self.site, module, args, kwargs)


class BeforeLayer:
    """The hook that changes the arguments of the layer."""

    def __init__(self, kept: AtOutput) -> None:
        self.kept = kept

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return self.kept.bank.enter(self.kept.call_of(module, args, kwargs))


class AfterLayer:
    """The hook that changes the output of the layer."""

    def __init__(self, kept: AtOutput) -> None:
        self.kept = kept

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        call = self.kept.call_of(module, args, kwargs)
        if isinstance(output, tuple):
            return (self.kept.bank.leave(call, output[0]), *output[1:])
        return self.kept.bank.leave(call, output)


class Places:
    """The places of an adapter's hooks among all hooks of one layer.

    Args:
        module: The layer, with the hooks of the adapter.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.before, self.after = list(module._forward_pre_hooks.items()), list(module._forward_hooks.items())

    def put(self, kept: AtOutput) -> None:
        """Put hooks of :class:`AtOutput` there, after those of the adapter were removed."""
        module = self.module
        pre, post = module._forward_pre_hooks, module._forward_hooks
        for listed, ours, new, hooks, with_kwargs in (
            (self.before, EntryHook, BeforeLayer(kept), pre, module._forward_pre_hooks_with_kwargs),
            (self.after, SiteHook, AfterLayer(kept), post, module._forward_hooks_with_kwargs),
        ):
            left = OrderedDict(hooks)
            hooks.clear()
            for key, hook in listed:
                if isinstance(hook, ours):
                    hooks[key] = new
                    with_kwargs[key] = True
                elif key in left:
                    hooks[key] = left[key]


def adapted_layers(network: nn.Module, banks: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Find the layers that carry the hooks of some banks, by the name of the bank; replaced layers are missing.

    A layer that was wrapped after adapting, e.g. by ``torch.compile``, is found in its wrapper.
    """
    names = {id(one): name for name, bank in banks.items() for one in bank.modules()}
    return {
        names[id(hook.bank)]: module
        for module in network.modules()
        for hook in module._forward_hooks.values()
        if isinstance(hook, SiteHook) and id(hook.bank) in names
    }
