"""The adapter of one network: banks, basis, fill, and the hooks that apply them to the frozen base.

Shapes: B samples, M modalities, K rows of the basis.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_mm.adapters.absent_rows import incomplete_codes
from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.call import AdapterCall, Current, Watch
from lightning_mm.adapters.encoders_first import OtherForward, TwoStepForward, first_step
from lightning_mm.adapters.grouped import GroupedForward
from lightning_mm.adapters.hooks import NetworkHook, predictions, register_hooks
from lightning_mm.adapters.kinds.base import Bank, Kind, parameters_at_once
from lightning_mm.adapters.layers.half import HALF, moved
from lightning_mm.adapters.layers.in_place import invertible_banks
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.left_out import adapted_and_left_out
from lightning_mm.adapters.network.eval_mode import FrozenState
from lightning_mm.adapters.network.inputs import (
    Call,
    InputPath,
    check_available,
    fill_absent,
    parameter_path,
    replace_nothing,
)
from lightning_mm.adapters.tracing import tracing
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Fill
from lightning_mm.modalities import Modalities

WITHOUT_MASK = (
    "was called without `available`, so all modalities count as present; add its FrozenBackboneAdapter to the "
    "callbacks of this trainer, or call it inside adapter.using(mask)"
)


class Adapter(nn.Module):
    """Banks for all adapted layers of one network; does not contain the network itself.

    Args:
        kind: What is learned at each layer, e.g. ``SSF()``.
        basis: How availability picks rows from the banks.
        modalities: Names in order.
        fill: Placeholder for absent inputs; with None inputs are not changed.
        sites: The adapted layers.
        paths: Path to the input of each modality in a call.
        encoders: Modality to the name of its encoder, for encoders that may run on a part of the samples.
        grouped: Whether the network runs once per combination.
        for_all: Names of the leaves of a call that are the same for all samples, whatever their size.
        deep_supervision: Names of modules that follow the mode of the adapter, on which the network's outputs depend.
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
        deep_supervision: Sequence[str] = (),
    ) -> None:
        super().__init__()
        basis.bind(modalities)
        self.kind, self.basis, self.modalities, self.fill = kind, basis, modalities, fill
        self.sites, self.paths = tuple(sites), dict(paths)
        self.encoders, self.grouped, self.for_all = dict(encoders), grouped, list(for_all)
        self.deep_supervision = list(deep_supervision)
        self.left_out: dict[str, str] = {}
        """Layers with weights that are not adapted, by name, with the reason; empty for a loaded adapter."""
        self.candidates: tuple[Site, ...] | None = None  # all sites it was built for, once some of them were chosen
        self.banks = nn.ModuleDict({bank_key(site.name): kind.bank(site, len(basis.names)) for site in sites})
        for parameter in self.parameters():  # the default dtype may be half precision, in which small steps are lost
            if parameter.dtype in HALF:
                parameter.data = parameter.data.float()
        self.example: Call | None = None  # of two samples, to compare folded networks on; not saved
        self.current = Current()
        self.expects_mask = False  # whether to warn, once, of a call without `available`
        self._handles: list[RemovableHandle | OtherForward] = []
        self._base: FrozenState | None = None
        self._available_path: InputPath | None = None

    def bank(self, site: Site) -> Bank:
        """Return the bank of one site."""
        return cast(Bank, self.banks[bank_key(site.name)])

    def parameters_per_combination(self, bank: nn.Module | None = None) -> int:
        """Count the parameters, of all banks or of one, in the rows of the combination that uses the most rows."""
        return parameters_at_once(bank or self.banks, self.basis)

    def summary(self) -> str:
        """Describe in a few lines what is adapted, and what is left out and why."""
        kind, basis, rows = type(self.kind).__name__, type(self.basis).__name__, len(self.basis.names)
        what = f"{kind} on {len(self.sites)} layers, {basis} with {rows} rows for {', '.join(self.modalities)}"
        what += f"; at most {self.parameters_per_combination():,} parameters per combination"
        return "\n".join([what, *adapted_and_left_out(self.sites, self.left_out)])

    @property
    def device(self) -> torch.device:
        for parameter in self.banks.parameters():
            return parameter.device
        return torch.device("cpu")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Adapter:
        """Keep float32, in which optimizer steps are not lost, when a network is cast to half precision."""
        return super()._apply(partial(moved, fn), recurse)

    @property
    def attached(self) -> bool:
        """Whether its hooks are on a network."""
        return self._base is not None

    def attach(self, network: nn.Module) -> None:
        """Freeze the network and register the hooks on its modules; its module tree and state_dict do not change."""
        if self._base is not None:
            raise LightningMMError("this adapter is already attached to a network; remove it first")
        if any(isinstance(hook, NetworkHook) for hook in network._forward_pre_hooks.values()):
            raise LightningMMError(f"{type(network).__name__} already has an adapter; remove that one first")
        # raises its errors before anything is changed
        grouped = GroupedForward(network, self.current, self.begin, self.for_all) if self.grouped else None
        reference = next((p for p in network.parameters()), None)
        if reference is not None:
            self.to(reference.device)
        if self.deep_supervision:
            self.train(network.training)
        self._base = FrozenState(network, self.deep_supervision)
        self._available_path = parameter_path(network, "available")
        encoders = {name: self.modalities.index(modality) for modality, name in self.encoders.items()}
        banks = [(site, self.bank(site)) for site in self.sites]
        self._predictions = len(predictions(banks))  # these need the outputs of all encoders
        self._handles = register_hooks(network, self.current, self.basis, self.prepare, encoders, banks, self.fill)
        if grouped is not None:
            network.forward = grouped
        elif self._predictions:
            self._handles.append(TwoStepForward(network, self.current))

    def detach(self) -> None:
        """Remove the hooks and restore ``requires_grad`` and the training modes of the base."""
        for handle in self._handles:
            handle.remove()
        if self._base is not None:
            if self.grouped:
                vars(self._base.network).pop("forward", None)
            self._base.restore()
        self._handles, self._base = [], None

    def freeze(self) -> None:
        """Set the modes of the network: eval, but that of the adapter for the modules of ``deep_supervision``."""
        if self._base is not None:
            self._base.freeze(self.training)

    @property
    def enabled(self) -> bool:
        """Whether banks modulate layers in the calls of this thread, see :meth:`disabled`."""
        return self.current.situation.enabled

    @property
    def running(self) -> bool:
        """Whether a call of the base is in progress in this thread."""
        return self.current.situation.call is not None

    @property
    def mixed(self) -> Mapping[int, Tensor]:
        """The tables that the running call of this thread has mixed, by the id of their parameter."""
        call = self.current.situation.call
        return {} if call is None else call.mixed

    def disabled(self) -> AbstractContextManager[None]:
        """Run the base without the banks but with filled inputs: the zero-fill baseline."""
        return self.current.changed(enabled=False)

    def every_row(self) -> AbstractContextManager[None]:
        """Run encoders on all samples, for callers that read the outputs of their layers."""
        return self.current.changed(merges=False)

    def using(self, available: Tensor | None, watch: Watch | None = None) -> AbstractContextManager[None]:
        """Set ``available`` for calls of the base in this thread that do not pass it.

        A step that calls the network on several sets of samples makes each call inside the context of its mask.
        Compiled code cannot tell threads apart: in several threads, compile the adapted network and pass `available`.

        Args:
            available: ``Bool[B, M]`` for the samples of these calls; None for all modalities.
            watch: Called before each of these calls, e.g. to refuse samples that the mask does not belong to.
        """
        return self.current.changed(available=available, watch=watch)

    def prepare(self, network: nn.Module, call: Call) -> Call:
        """Start a call of the base: fill absent inputs, pass ``available`` on, and compute the route.

        Raises:
            LightningMMError: If ``available`` is not ``Bool[B, M]`` for the B of the inputs.
        """
        if not torch.compiler.is_compiling():
            self.freeze()
        path, situation = self._available_path, self.current.situation
        given = path.get(call) if path else None
        available = given if given is not None else situation.available
        if available is None:
            if self.expects_mask:
                self.expects_mask = False
                warnings.warn(f"{type(network).__name__} {WITHOUT_MASK}", stacklevel=2)
            return call
        if given is None and not tracing() and situation.watch is not None:
            situation.watch(network, [one.get(call) for one in self.paths.values()], situation.enabled)
        if path and given is None:
            call = path.put(call, available)
        available = self.check(available, call)
        call = replace_nothing(call, available, self.paths, self.example, network)
        assert situation.call is not None
        self.begin(situation.call, available)
        return fill_absent(call, available, self.fill, self.paths)

    def check(self, available: Tensor, call: Call) -> Bool[Tensor, "batch modality"]:
        """Check the shape and dtype of ``available`` and move it to the device; errors as in :meth:`prepare`."""
        return check_available(available, self.modalities, call, self.paths).to(self.device)

    def begin(self, call: AdapterCall, available: Bool[Tensor, "batch modality"]) -> None:
        """Set the state that the hooks read in this call."""
        situation, eager = self.current.situation, not tracing()
        call.available = available
        if eager and self.encoders and situation.merges:
            call.codes = incomplete_codes(self.modalities, available)
        if not situation.enabled:
            return
        if eager and available.device.type == "cpu" and not torch.is_grad_enabled() and bool(available.all()):
            return  # nothing to modulate, and the check is cheap
        # in grouped mode all samples have one combination, so they share one row of coefficients
        call.route = self.basis.route(available[:1] if self.grouped else available)
        call.encoded = first_step(self._predictions, call, sure=not eager or not situation.merges)
        call.mix_ahead(self.banks)
        if eager and call.grad_enabled:
            call.invertible = invertible_banks(self.banks, self.basis.rows_at_once())


def bank_key(name: str) -> str:
    """Turn a module name into a key of ``nn.ModuleDict``, which allows neither dots nor its own attribute names."""
    key = name.replace(".", "/")
    return key + "/" if not key or hasattr(nn.ModuleDict, key) else key
