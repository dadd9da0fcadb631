"""The hooks of an adapter on its base; objects, so that they survive deepcopy, pickle, compile and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_mm.adapters.absent_rows import AbsentRows
from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.call import AdapterCall, Current, LayerCall
from lightning_mm.adapters.encoders_first import EncodedForward, OtherForward
from lightning_mm.adapters.kinds.base import Bank
from lightning_mm.adapters.layers.in_place import may_overwrite
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.ranks import joined
from lightning_mm.adapters.tracing import tracing
from lightning_mm.errors import LightningMMError


def register_hooks(
    network: nn.Module,
    current: Current,
    basis: Basis,
    prepare: Callable[[nn.Module, Call], Call],
    encoders: Mapping[str, int],
    banks: Sequence[tuple[Site, Bank]],
    fill: nn.Module | None = None,
) -> list[RemovableHandle | OtherForward]:
    """Register the hooks of an adapter on a network.

    Args:
        network: The base.
        current: Access to the running call.
        basis: How availability picks rows from the banks.
        prepare: Changes the arguments of a call of the network.
        encoders: Names of the modules that may run on distinct rows only, and the columns of their modalities.
        banks: The adapted layers.
        fill: The placeholder for absent inputs, which may learn.

    Returns:
        Handles to remove the hooks with.
    """
    modules, absent = dict(network.named_modules()), {name: AbsentRows(current, at) for name, at in encoders.items()}
    handles: list[RemovableHandle | OtherForward] = [
        network.register_forward_pre_hook(OpenHook(current, basis), prepend=True),
        network.register_forward_pre_hook(NetworkHook(prepare), with_kwargs=True),
    ]
    for name, rows in absent.items():  # outside the hooks of an encoder that is itself adapted
        handles.append(modules[name].register_forward_pre_hook(rows.enter, with_kwargs=True))
    for site, bank in banks:
        module = modules[site.name]
        if not bank.at_layer:
            continue
        if bank.changes_input:
            handles.append(module.register_forward_pre_hook(EntryHook(current, site, bank), with_kwargs=True))
        handles.append(module.register_forward_hook(SiteHook(current, site, bank), with_kwargs=True))
    for name, rows in absent.items():
        handles.append(modules[name].register_forward_hook(rows.leave, with_kwargs=True, always_call=True))
    handles += register_predictions(modules, current, banks)
    parts = [*(bank for _, bank in banks), basis, *([] if fill is None else [fill])]
    return [*handles, network.register_forward_hook(EndHook(current, parts), always_call=True)]


def register_predictions(
    modules: Mapping[str, nn.Module], current: Current, banks: Sequence[tuple[Site, Bank]]
) -> list[RemovableHandle | OtherForward]:
    """Register the hooks of the banks that act on the outputs of encoders, see ``Bank.behind_encoder``."""
    handles: list[RemovableHandle | OtherForward] = []
    for site, bank in predictions(banks):
        module = modules[site.name]
        handles.append(EncodedForward(module, site.name, current))
        handles.append(module.register_forward_hook(SiteHook(current, site, bank), with_kwargs=True))
    return handles


def predictions(banks: Sequence[tuple[Site, Bank]]) -> list[tuple[Site, Bank]]:
    """Return the banks that act on the outputs of encoders for all samples, also those inside of other banks."""
    found = ((site, one) for site, bank in banks for one in bank.modules())
    return [(site, one) for site, one in found if isinstance(one, Bank) and one.behind_encoder]


class OpenHook:
    """The first hook in a call of the base; runs before the user's own hooks, which may raise."""

    def __init__(self, current: Current, basis: Basis) -> None:
        self.current, self.basis = current, basis

    def __call__(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        self.current.begin(AdapterCall(self.basis))


class NetworkHook:
    """The hook that changes the arguments of the base: fills absent inputs and passes ``available`` on."""

    def __init__(self, prepare: Callable[[nn.Module, Call], Call]) -> None:
        self.prepare = prepare

    def __call__(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        return self.prepare(network, (args, kwargs))


class EndHook:
    """The last hook in a call of the base, also after an exception, so that layers called alone are not modulated.

    In a distributed run all parts of the adapter take part in the backward pass, whatever layers the loss depends on
    and whatever modalities the batch lacks.
    """

    def __init__(self, current: Current, parts: Sequence[nn.Module]) -> None:
        self.current, self.parts = current, list(parts)

    def __call__(self, network: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        call = self.current.situation.call
        modulated = call is not None and call.route is not None
        self.current.end()
        return joined(output, (one for part in self.parts for one in part.parameters())) if modulated else None


class EntryHook:
    """The hook that changes the arguments of one layer."""

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
    """The hook that modulates the output of one layer."""

    def __init__(self, current: Current, site: Site, bank: Bank) -> None:
        self.current, self.site, self.bank = current, site, bank

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        call = modulating(self.current, self.site)
        if call is None:
            return None
        layer = None
        while self.bank.changes_input and layer is None:
            entered = call.entered.pop()  # other layers left theirs by an exception that the network caught
            layer = entered if entered.site is self.site else None
        if layer is None:
            layer = LayerCall(call, self.site, module, args, kwargs)
        layer.args, layer.kwargs = args, kwargs  # after all hooks changed them
        layer.in_place = not tracing() and may_overwrite(module, output, self.site, self.bank in call.invertible)
        if isinstance(output, tuple):
            return (self.bank.leave(layer, output[0]), *output[1:])
        return self.bank.leave(layer, output)


def modulating(current: Current, site: Site) -> AdapterCall | None:
    """Return the call that modulates the running layer; None if nothing modulates it.

    Raises:
        LightningMMError: If its adapter would get no gradient here.
    """
    situation = current.situation
    call = situation.call
    if not tracing():
        # gradient checkpointing recomputes the layer after the call ended
        if situation.enabled and torch._C._current_graph_task_id() != -1:
            raise LightningMMError(
                f"layer {site.name!r} runs again in the backward pass: gradient checkpointing does not work with "
                "adapters; switch it off in the network, which needs little memory for activations when frozen"
            )
        if call is not None and call.route is not None and call.grad_enabled and not torch.is_grad_enabled():
            raise LightningMMError(
                f"layer {site.name!r} runs without gradients in a call that needs them: the network runs it inside "
                "torch.no_grad() or a reentrant gradient checkpoint, where its adapter would never learn; leave it out "
                "with `exclude`, or remove that context"
            )
    return None if call is None or call.route is None else call
