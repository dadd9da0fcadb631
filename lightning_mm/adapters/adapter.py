"""The adapter of one network: its banks, its basis, its fill, and the hooks that bring them to the frozen base.

Shapes: B samples, M modalities, K rows of the basis.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, cast

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_mm.adapters.absent_rows import AbsentRows, tracing
from lightning_mm.adapters.basis import Basis, mix_together
from lightning_mm.adapters.grouped import GroupedForward
from lightning_mm.adapters.kinds.base import Bank, Kind, Mixed, first_argument
from lightning_mm.adapters.layers.in_place import is_own, may_be_undone, scales_away_from_zero
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.network.inputs import Call, InputPath, batch_size, parameter_path
from lightning_mm.adapters.network.probe import refuse_nested_tensors
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Fill
from lightning_mm.modalities import Modalities


class OfOneCall(dict[str, Tensor]):
    """Holds tensors with a gradient during a call; copies and pickles are empty."""

    def __deepcopy__(self, memo: dict[int, Any]) -> OfOneCall:
        return OfOneCall()

    def __reduce__(self) -> tuple[type[OfOneCall], tuple[()]]:
        return OfOneCall, ()


class SiteHook:
    """Modulates the output of one layer; an object, so that it survives deepcopy and pickle."""

    def __init__(self, adapter: Adapter, site: Site) -> None:
        self.adapter, self.site = adapter, site
        self.key = bank_key(site.name)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        adapter = self.adapter
        if not adapter.adapts(self.site):
            return None
        bank = cast(Bank, adapter.banks[self.key])
        route: Any = adapter.route_for(self.key)
        given = (module, first_argument(self.site, args, kwargs)) if bank.needs_input else ()
        in_place = not tracing() and self.key in adapter.undone and may_be_undone(self.site, module, output)
        if in_place if torch.is_grad_enabled() else is_own(module, output):
            return bank.overwrite(output, route, adapter.basis, self.site, *given)
        if isinstance(output, tuple):
            return (bank(output[0], route, adapter.basis, self.site, *given), *output[1:])
        return bank(output, route, adapter.basis, self.site, *given)


class EntryHook:
    """Modulates the first argument of one layer."""

    def __init__(self, adapter: Adapter, site: Site) -> None:
        self.adapter, self.site = adapter, site
        self.key = bank_key(site.name)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        adapter = self.adapter
        if not adapter.adapts(self.site):
            return None
        bank = cast(Bank, adapter.banks[self.key])
        return bank.enter_call(module, (args, kwargs), cast(Tensor, adapter.route), adapter.basis, self.site)


def refuse_recomputation(site: Site) -> None:
    """Raise a LightningMMError in the recomputation of gradient checkpointing: the route may be of a later call."""
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        raise LightningMMError(
            f"layer {site.name!r} runs again in the backward pass: gradient checkpointing does not work with "
            "adapters; switch it off in the network, whose activations need little memory when it is frozen"
        )


class EndHook:
    """After the base ran: parts of it that are called on their own are those of the base."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def __call__(self, network: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.adapter.running = False
        if not tracing():
            self.adapter.mixed = OfOneCall()


class NetworkHook:
    """Before the base runs: keeps it in eval mode, fills absent inputs, hands on `available` and sets the route."""

    def __init__(self, adapter: Adapter, available_path: InputPath | None) -> None:
        self.adapter, self.available_path = adapter, available_path

    def __call__(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        adapter = self.adapter
        adapter.keep_frozen(network)
        call: Call = (args, kwargs)
        given = self.available_path.get(call) if self.available_path else None
        available = given if given is not None else adapter.available
        if available is None:
            adapter.route = adapter.mask = adapter.codes = None
            if adapter.expects_mask:
                adapter.expects_mask = False  # said once
                warnings.warn(
                    f"{type(network).__name__} was called without `available`, so all modalities count as present; add "
                    "its FrozenBackboneAdapter to the callbacks of this trainer, or call it within adapter.using(mask)",
                    stacklevel=2,
                )
            return None
        if self.available_path and given is None:
            call = self.available_path.put(call, available)
        available = adapter.check(available, call)
        call = adapter.fill_absent(call, available)
        adapter.set_available(available)
        return call


class Adapter(nn.Module):
    """Banks for all adapted layers of one network; the network itself is not a part of it.

    Args:
        kind: What is learned at each layer, e.g. ``SSF()``.
        basis: How availability picks from the banks.
        modalities: Their names in order.
        fill: What stands for an absent input; None leaves the inputs alone.
        sites: The adapted layers.
        paths: Where each modality's input lies in a call.
        encoders: Modality to its encoder, for those that may run on some samples alone.
        grouped: Whether the network runs once per combination.
        for_all: In grouped mode, names of the tensors of a call that are not batch first, whatever their size.
    """

    def __init__(
        self,
        kind: Kind,
        basis: Basis,
        modalities: Modalities,
        fill: Fill | None,
        sites: Sequence[Site],
        paths: Mapping[str, InputPath],
        encoders: Mapping[str, str] = MappingProxyType({}),
        grouped: bool = False,
        for_all: Sequence[str] = (),
    ) -> None:
        super().__init__()
        basis.bind(modalities)
        self.kind, self.modalities, self.sites, self.paths = kind, modalities, tuple(sites), dict(paths)
        self.basis, self.fill = basis, fill
        self.encoders, self.grouped, self.for_all = dict(encoders), grouped, list(for_all)
        self.candidates: tuple[Site, ...] | None = None  # all sites that it was built for, once some were chosen
        self.banks = nn.ModuleDict({bank_key(site.name): kind.bank(site, len(basis.names)) for site in sites})
        self.enabled = True
        self.available: Tensor | None = None
        self.route: Tensor | None = None
        self.mask: Tensor | None = None
        self.codes: list[int] | None = None
        self.merges = True
        self.undone: frozenset[str] = frozenset()
        self.mixed = OfOneCall()
        self.rows: Tensor | None = None
        self.running = self.learns = False
        self.expects_mask = False
        self._handles: list[RemovableHandle] = []
        self._training: list[bool] = []
        self._modules_of_base: list[nn.Module] = []
        self._required_grad: list[tuple[nn.Parameter, bool]] = []
        self._packing: list[nn.TransformerEncoder] = []

    # what is learned ------------------------------------------------------------------------------------------------

    def parameters_per_combination(self) -> int:
        """Numbers that one combination adds: those of the rows that it uses, for the combination that uses most."""
        rows = self.basis.weights(self.modalities.masks(self.modalities.incomplete()).to(self.device))
        most = int(rows.sum(1).max())
        return most * sum(parameter.numel() for parameter in self.banks.parameters()) // len(self.basis.names)

    @property
    def device(self) -> torch.device:
        for parameter in self.banks.parameters():
            return parameter.device
        return torch.device("cpu")

    # attaching ------------------------------------------------------------------------------------------------------

    def attach(self, network: nn.Module) -> None:
        """Freeze the network and put the hooks on its modules; its module tree and state_dict stay as they are."""
        if self._handles:
            raise LightningMMError("this adapter is attached to a network already; remove it first")
        if any(isinstance(hook, NetworkHook) for hook in network._forward_pre_hooks.values()):
            raise LightningMMError(f"{type(network).__name__} has an adapter already; remove that one first")
        grouped = GroupedForward(self, network) if self.grouped else None  # refuses before anything is changed
        reference = next((p for p in network.parameters()), None)
        if reference is not None:
            self.to(reference.device)
        self._required_grad = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
        self._modules_of_base = list(network.modules())
        self._training = [module.training for module in self._modules_of_base]
        network.requires_grad_(False)
        network.eval()
        self._packing = refuse_nested_tensors(network)
        hook = NetworkHook(self, parameter_path(network, "available"))
        self._handles.append(network.register_forward_pre_hook(hook, with_kwargs=True))
        modules = dict(network.named_modules())
        rows = {name: AbsentRows(self, self.modalities.index(modality)) for modality, name in self.encoders.items()}
        for name, absent in rows.items():  # around the hooks of an encoder that is adapted itself
            self._handles.append(modules[name].register_forward_pre_hook(absent.enter, with_kwargs=True))
        for site in self.sites:
            if cast(Bank, self.banks[bank_key(site.name)]).changes_input:
                entry = EntryHook(self, site)
                self._handles.append(modules[site.name].register_forward_pre_hook(entry, with_kwargs=True))
            self._handles.append(modules[site.name].register_forward_hook(SiteHook(self, site), with_kwargs=True))
        for name, absent in rows.items():
            self._handles.append(modules[name].register_forward_hook(absent.leave, with_kwargs=True))
        self._handles.append(network.register_forward_hook(EndHook(self)))
        if grouped is not None:
            network.forward = grouped

    def detach(self) -> None:
        """Take the hooks off and give the base its ``requires_grad`` and its modes back."""
        for handle in self._handles:
            handle.remove()
        if self.grouped and self._modules_of_base:
            vars(self._modules_of_base[0]).pop("forward", None)
        for parameter, required in self._required_grad:
            parameter.requires_grad_(required)
        for module, training in zip(self._modules_of_base, self._training):
            module.training = training
        for encoder in self._packing:
            encoder.use_nested_tensor = True
        self._handles, self._modules_of_base, self._required_grad, self._packing = [], [], [], []
        self.route = self.available = self.mask = self.codes = None

    def keep_frozen(self, network: nn.Module) -> None:
        """Undo a ``train()`` call on the base: its norm layers and dropout stay in eval mode."""
        if not torch.compiler.is_compiling() and any(module.training for module in self._modules_of_base):
            network.eval()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the base without its banks (inputs are filled all the same): the zero-fill baseline."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    @contextmanager
    def every_row(self) -> Iterator[None]:
        """Let encoders run on all samples, for those who look at what their layers put out."""
        before, self.merges = self.merges, False
        try:
            yield
        finally:
            self.merges = before

    @contextmanager
    def using(self, available: Tensor | None) -> Iterator[None]:
        """Set `available` for calls of the base that do not carry it."""
        before, self.available = self.available, available
        try:
            yield
        finally:
            self.available = before

    # one call -------------------------------------------------------------------------------------------------------

    def check(self, available: Tensor, call: Call) -> Bool[Tensor, "batch modality"]:
        """``available`` on the right device, after a check of its shape and dtype.

        Raises:
            LightningMMError: If it is not ``Bool[B, M]`` for the B of the inputs.
        """
        if not isinstance(available, Tensor):
            raise LightningMMError(f"`available` must be a tensor Bool[B, M], got a {type(available).__name__}")
        size = None
        for path in self.paths.values():
            # a loop: torch.compile takes neither next() with a default (2.6) nor := in a list (2.15)
            if size is None:
                size = batch_size(path.get(call))
        if available.ndim != 2 or available.shape[1] != len(self.modalities) or available.dtype != torch.bool:
            raise LightningMMError(
                f"`available` must be Bool[B, {len(self.modalities)}], one column for each of {list(self.modalities)}, "
                f"got {available.dtype} {tuple(available.shape)}"
            )
        if size is not None and available.shape[0] != size:
            raise LightningMMError(f"`available` has {available.shape[0]} rows, the inputs have {size} samples")
        return available.to(self.device)

    def fill_absent(self, call: Call, available: Bool[Tensor, "batch modality"]) -> Call:
        """The same call with absent inputs filled; arguments are not changed in place."""
        if self.fill is None:
            return call
        looking_is_cheap = available.device.type == "cpu" and not tracing()
        whole = available.all(0).tolist() if looking_is_cheap else [False] * len(self.paths)
        for column, (name, path) in enumerate(self.paths.items()):
            value = path.get(call)
            if value is not None and not whole[column]:
                call = path.put(call, self.fill(name, value, available[:, column]))
        return call

    def set_available(self, available: Bool[Tensor, "batch modality"]) -> None:
        """Set what the hooks read in this forward: mask, route, and combinations where encoders need them."""
        self.running, self.learns = True, torch.is_grad_enabled()
        self.mask = available if self.grouped else None
        # in grouped mode all samples are of one combination, and one row of coefficients holds for all
        self.route = self.routed(available[:1] if self.grouped else available)
        if not tracing():  # a graph holds no state of one call
            self.mixed, self.rows, self.undone = OfOneCall(), None, frozenset()
            if self.route is not None:
                self.mix(self.route)
                self.undone = scales_away_from_zero(self.banks, self.basis) if self.learns else frozenset()
        self.codes = None
        if self.encoders and self.merges and not tracing():
            codes = self.modalities.code(available).tolist()
            self.codes = codes if any(code != 2 ** len(self.modalities) - 1 for code in codes) else None

    def mix(self, route: Shaped[Tensor, " batch *route"]) -> None:
        """Mix the rows of all banks that can be mixed before their layers run."""
        banks = {key: cast(Bank, bank).tables() for key, bank in self.banks.items()}
        tables = {key: found for key, found in banks.items() if found}
        if tables:
            mixed = mix_together(route, self.basis, [table for found in tables.values() for table in found])
            widths = [sum(table.shape[1] for table in found) for found in tables.values()]
            self.mixed.update(zip(tables, mixed.split(widths, 1)))

    def route_for(self, key: str) -> Tensor | Mixed:
        """What a bank is given: the route, with what was mixed along it."""
        route, mixed = cast(Tensor, self.route), None if tracing() else self.mixed.get(key)
        if mixed is None:
            return route
        return Mixed(route, mixed if self.rows is None else mixed.index_select(0, self.rows))

    def adapts(self, site: Site) -> bool:
        """Whether a layer that runs now is to be modulated.

        Raises:
            LightningMMError: If what it learns here would be lost.
        """
        if self.route is None or not self.enabled:
            return False
        refuse_recomputation(site)
        if self.running and self.learns and not torch.is_grad_enabled() and not tracing():
            raise LightningMMError(
                f"layer {site.name!r} runs without gradients in a call that has them: within torch.no_grad() or a "
                "reentrant gradient checkpoint of the network, where its adapter would never learn; leave it out with "
                "`exclude`, or take that away"
            )
        return self.running

    def routed(self, available: Bool[Tensor, "batch modality"]) -> Shaped[Tensor, " batch *route"] | None:
        """The route of this batch; None (nothing to do) for a full batch in inference, where looking is cheap."""
        if not self.enabled:
            return None
        looking_is_cheap = available.device.type == "cpu" and not tracing()
        if looking_is_cheap and not torch.is_grad_enabled() and bool(available.all()):
            return None
        return self.basis.route(available)


def bank_key(name: str) -> str:
    """A module name as a key of ``nn.ModuleDict``, which takes no dots and none of its own attributes."""
    key = name.replace(".", "/")
    return key + "/" if not key or hasattr(nn.ModuleDict, key) else key
