"""The state of one call of an adapted network, and the view of it that a bank gets when its layer runs.

No state of a call is stored on an object that outlives it: hooks find their call through a ``ContextVar``, so threads,
nested calls and calls that ended with an exception do not interfere. Compiled code, which cannot read a ``ContextVar``,
finds the call of one thread on the adapter's :class:`Current`, until it ends.

Shapes: B samples, M modalities, K rows of the basis, S rows that a sample uses, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor, nn

from lightning_mm.adapters.basis import Basis
from lightning_mm.adapters.layers.layout import Site
from lightning_mm.adapters.tracing import full_precision, tracing
from lightning_mm.errors import LightningMMError


class AdapterCall:
    """One call of an adapted network, from its first hook to its last.

    Args:
        basis: How availability picks rows from the banks.
        available: ``Bool[B, M]``; None if it was not passed, which means that all modalities are present.
        route: The basis's route of the samples, or of one row that they share; None if nothing is modulated.
        codes: The combination of each sample, see ``Modalities.code``, if encoders may run on distinct rows only.
    """

    def __init__(
        self,
        basis: Basis,
        available: Bool[Tensor, "batch modality"] | None = None,
        route: Shaped[Tensor, " batch *route"] | None = None,
        codes: list[int] | None = None,
    ) -> None:
        self.basis, self.available, self.route, self.codes = basis, available, route, codes
        self.rows: Tensor | None = None  # samples that the running encoder gets; None for the whole batch
        self.grad_enabled = torch.is_grad_enabled()
        self.invertible: frozenset[nn.Module] = frozenset()  # banks, see layers.in_place
        self.entered: list[LayerCall] = []  # layers that are between their two hooks
        self.merged: list[Any] = []  # running encoders, see absent_rows
        self.mixed: dict[int, Tensor] = {}

    def mix_ahead(self, banks: nn.Module) -> None:
        """Mix the tables ``[K, C]`` of all banks at once: one product costs less than many small ones."""
        tables: list[Tensor] = [table for table in banks.parameters() if table.ndim == 2]
        if not tables or self.route is None or tracing():
            return
        with full_precision(self.route.device.type):
            mixed = self.basis.mix(self.route, (torch.cat(tables, 1) if len(tables) > 1 else tables[0]).float())
        parts = mixed.split([table.shape[1] for table in tables], 1)
        self.mixed = {id(table): part for table, part in zip(tables, parts)}

    def mix(self, table: Float[Tensor, "row channel"]) -> Float32[Tensor, "batch channel"]:
        """Return the coefficients of the samples that the running layer gets, in float32."""
        mixed = self.mixed.get(id(table)) if self.mixed and not tracing() else None
        if mixed is not None:
            return mixed if self.rows is None else mixed.index_select(0, self.rows)
        assert self.route is not None
        with full_precision(table.device.type):
            return self.basis.mix(self.route, table.float())


class LayerCall:
    """One call of an adapted layer, with all that a bank needs.

    Attributes:
        site: Describes the axes of samples and channels in the outputs of the layer.
        module: The layer; in :meth:`~lightning_mm.adapters.kinds.base.Bank.fold` a copy that may be changed.
        args: Positional arguments of the layer, including changes by banks.
        kwargs: Keyword arguments of the layer, including changes by banks.
        given: ``(args, kwargs)`` before any bank changed them.
        basis: How availability picks rows from the banks.
        route: The result of ``basis.route`` for the samples.
        in_place: Whether the output may be modified in place, see :mod:`lightning_mm.adapters.layers.in_place`.
    """

    def __init__(
        self, call: AdapterCall, site: Site, module: nn.Module, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> None:
        assert call.route is not None
        self._call, self.site, self.module = call, site, module
        self.args, self.kwargs = self.given = args, kwargs or {}
        self.basis, self.route, self.in_place = call.basis, call.route, False

    @property
    def input(self) -> Any:
        """The first positional argument of the layer, or its keyword argument ``input``.

        Raises:
            LightningMMError: If it was called with neither.
        """
        if self.args:
            return self.args[0]
        if "input" not in self.kwargs:
            raise LightningMMError(
                f"layer {self.site.name!r} was called without a positional argument or `input`, which its adapter "
                "reads; leave it out with `exclude`"
            )
        return self.kwargs["input"]

    def with_input(self, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of the layer with another :attr:`input`."""
        return ((value, *self.args[1:]), self.kwargs) if self.args else ((), {**self.kwargs, "input": value})

    def mix(self, table: Float[Tensor, "row channel"]) -> Float32[Tensor, "batch channel"]:
        """Mix a table ``[K, C]`` into one row per sample, in float32; zeros for complete samples."""
        return self._call.mix(table)

    def gather(self, table: Float[Tensor, " row *entry"]) -> Float[Tensor, "batch slot *entry"]:
        """Collect the rows ``[B, S, ...]`` that each sample uses, for kinds that cannot add up rows before use."""
        return self.basis.gather(self.route, table)

    def uses_rows(self) -> Bool[Tensor, " batch"]:
        """Return which samples use any row."""
        return self.basis.uses(self.route)


Watch = Callable[[nn.Module, Sequence[Any], bool], object]
"""Called with a network, the inputs of the modalities, and whether banks modulate its layers."""


class Situation:
    """The settings and the running call of one adapter in one thread.

    Args:
        available: Used by calls that do not pass it, see ``Adapter.using``.
        enabled: Whether banks modulate layers, see ``Adapter.disabled``.
        merges: Whether encoders may run on distinct rows only, see ``Adapter.every_row``.
        call: The running call, if any.
        outer: The state that is restored when the call ends.
        watch: Told of every call that takes ``available`` from here, see ``Adapter.using``.
        recorded: Whether the call began in compiled code.
    """

    def __init__(
        self,
        available: Tensor | None = None,
        enabled: bool = True,
        merges: bool = True,
        call: AdapterCall | None = None,
        outer: Any = None,
        recorded: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self.available, self.enabled, self.merges, self.call, self.outer = available, enabled, merges, call, outer
        self.recorded, self.watch = recorded, watch


_SITUATIONS: ContextVar[Mapping[Any, Situation]] = ContextVar("lightning_mm_adapters", default=MappingProxyType({}))


class Current:
    """The access to the situation of one adapter in the current thread; a copy or a pickle starts empty.

    Compiled code cannot read a ``ContextVar``, so calls are stored here too until they end: for compiled parts of a
    network that eager code calls, and for eager parts (after a graph break) that compiled code calls.
    """

    def __init__(self) -> None:
        self._none = self._in_graphs = Situation()

    @property
    def situation(self) -> Situation:
        if tracing():
            return self._in_graphs
        now = _SITUATIONS.get().get(self, self._none)
        return self._in_graphs if now.call is None and self._in_graphs.recorded else now

    def begin(self, call: AdapterCall) -> None:
        """Make a call the running one; every :meth:`begin` needs an :meth:`end`."""
        now = self.situation
        if tracing():
            self._in_graphs = Situation(now.available, now.enabled, now.merges, call, outer=now, recorded=True)
        else:
            before = _SITUATIONS.get()
            outer = before, self._in_graphs
            begun = Situation(now.available, now.enabled, now.merges, call, outer, watch=now.watch)
            self._in_graphs = begun
            _SITUATIONS.set({**before, self: begun})

    def end(self) -> None:
        """Drop the running call and return to the enclosing one, if any."""
        now = self.situation
        if now.recorded:
            self._in_graphs = now.outer
        elif now.outer is not None and not tracing():  # None if the call never began: an earlier hook raised
            self._restore(*now.outer)

    @contextmanager
    def setting(
        self, available: Tensor | None, enabled: bool, merges: bool, watch: Watch | None = None
    ) -> Iterator[None]:
        """Change the settings for calls in this thread; on exit, also drop calls that were interrupted inside."""
        before, in_graphs, last = None if tracing() else _SITUATIONS.get(), self._in_graphs, self.situation
        now = Situation(available, enabled, merges, last.call, last.outer, last.recorded, watch)
        self._in_graphs = now
        if before is not None:
            _SITUATIONS.set({**before, self: now})
        try:
            yield
        finally:
            if before is None:
                self._in_graphs = in_graphs
            else:
                self._restore(before, in_graphs)

    def changed(self, **settings: Any) -> AbstractContextManager[None]:
        """Change some of the settings of :meth:`setting`."""
        now = self.situation
        kept = {name: getattr(now, name) for name in ("available", "enabled", "merges", "watch")}
        return self.setting(**{**kept, **settings})

    def _restore(self, before: Mapping[Any, Situation], in_graphs: Situation) -> None:
        _SITUATIONS.set(before)
        # eager code of several threads sets it; only a call that began in compiled code is certainly of this one
        self._in_graphs = in_graphs if in_graphs.recorded else before.get(self, self._none)

    def __deepcopy__(self, memo: dict[int, Any]) -> Current:
        return Current()

    def __reduce__(self) -> tuple[type[Current], tuple[()]]:
        return Current, ()
