"""The hooks of an adapter on its base: objects, so that they survive deepcopy, pickle, compile and export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.call import AdapterCall, Current, LayerCall
from lightning_mm.adapters.kinds.base import Bank
from lightning_mm.adapters.layers.in_place import may_overwrite
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.tracing import tracing
from lightning_mm.errors import LightningMMError


class OpenHook:
    """The first thing that happens in a call of the base: before hooks of its owner, which may raise."""

    def __init__(self, current: Current, basis: Basis) -> None:
        self.current, self.basis = current, basis

    def __call__(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        self.current.begin(AdapterCall(self.basis))


class NetworkHook:
    """Before the base runs: changes the arguments as the adapter says (fills, hands `available` on)."""

    def __init__(self, prepare: Callable[[nn.Module, Call], Call]) -> None:
        self.prepare = prepare

    def __call__(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return self.prepare(network, (args, kwargs))


class EndHook:
    """The last thing in a call of the base, also after an exception: parts called alone later are not modulated."""

    def __init__(self, current: Current) -> None:
        self.current = current

    def __call__(self, network: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.current.end()


class EntryHook:
    """Changes the arguments of one layer."""

    def __init__(self, current: Current, site: Site, bank: Bank) -> None:
        self.current, self.site, self.bank = current, site, bank

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        call = modulating(self.current, self.site)
        if call is None:
            return None
        layer = LayerCall(call, self.site, module, args, kwargs)
        call.entered.append(layer)
        return self.bank.enter(layer)


class SiteHook:
    """Modulates the output of one layer."""

    def __init__(self, current: Current, site: Site, bank: Bank) -> None:
        self.current, self.site, self.bank = current, site, bank

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        call = modulating(self.current, self.site)
        if call is None:
            return None
        layer = None
        while self.bank.changes_input and layer is None:
            entered = call.entered.pop()  # those of other layers were cut off by an exception that the network caught
            layer = entered if entered.site is self.site else None
        if layer is None:
            layer = LayerCall(call, self.site, module, args, kwargs)
        layer.args, layer.kwargs = args, kwargs  # as it was called in the end
        layer.in_place = not tracing() and may_overwrite(module, output, self.site, self.bank in call.may_be_undone)
        if isinstance(output, tuple):
            return (self.bank.leave(layer, output[0]), *output[1:])
        return self.bank.leave(layer, output)


def modulating(current: Current, site: Site) -> AdapterCall | None:
    """The call in which a layer that runs now is to be modulated; None if it is not.

    Raises:
        LightningMMError: If what it learns here would be lost.
    """
    situation = current.situation
    call = situation.call
    if not tracing():
        # the recomputation of gradient checkpointing, after its call is over
        if situation.enabled and torch._C._current_graph_task_id() != -1:
            raise LightningMMError(
                f"layer {site.name!r} runs again in the backward pass: gradient checkpointing does not work with "
                "adapters; switch it off in the network, whose activations need little memory when it is frozen"
            )
        if call is not None and call.route is not None and call.learns and not torch.is_grad_enabled():
            raise LightningMMError(
                f"layer {site.name!r} runs without gradients in a call that has them: within torch.no_grad() or a "
                "reentrant gradient checkpoint of the network, where its adapter would never learn; leave it out with "
                "`exclude`, or take that away"
            )
    return None if call is None or call.route is None else call
