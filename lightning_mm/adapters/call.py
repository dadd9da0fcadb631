"""The state of one call of an adapted network, and what a bank sees of one call of its layer.

Nothing of a call is kept on an object that outlives it: hooks find their call through a ``ContextVar``, so that
threads, nested calls and calls that ended with an exception cannot meet. Where a graph is recorded, which cannot read a
``ContextVar``, the call lies on the adapter's :class:`Current` until it ends.

Shapes: B samples, M modalities, K rows of the basis, S rows that a sample uses, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        basis: How availability picks from the banks.
        available: ``Bool[B, M]``; None if none was given, so that all modalities count as present.
        route: The basis's route of the samples, or of one that stands for all; None if nothing is modulated.
        codes: The combination of each sample, see ``Modalities.code``, where encoders may run on distinct rows alone.
    """

    def __init__(
        self,
        basis: Basis,
        available: Bool[Tensor, "batch modality"] | None = None,
        route: Shaped[Tensor, " batch *route"] | None = None,
        codes: list[int] | None = None,
    ) -> None:
        self.basis, self.available, self.route, self.codes = basis, available, route, codes
        self.rows: Tensor | None = None  # those that the running encoder sees; None for the whole batch
        self.learns = torch.is_grad_enabled()
        self.may_be_undone: frozenset[nn.Module] = frozenset()  # banks, see layers.in_place
        self.entered: list[LayerCall] = []  # calls of layers between their two hooks
        self.merged: list[Any] = []  # runs of encoders on distinct rows, see absent_rows
        self._mixed: dict[int, Tensor] = {}

    def mix_ahead(self, banks: nn.Module) -> None:
        """Mix the tables ``[K, C]`` of all banks before the layers run: one product costs less than many small ones."""
        tables: list[Tensor] = [table for table in banks.parameters() if table.ndim == 2]
        if not tables or self.route is None or tracing():
            return
        with full_precision(self.route.device.type):
            mixed = self.basis.mix(self.route, (torch.cat(tables, 1) if len(tables) > 1 else tables[0]).float())
        parts = mixed.split([table.shape[1] for table in tables], 1)
        self._mixed = {id(table): part for table, part in zip(tables, parts)}

    def mix(self, table: Float[Tensor, "row channel"]) -> Float32[Tensor, "batch channel"]:
        """Coefficients of the samples that the running layer sees, in float32."""
        mixed = self._mixed.get(id(table)) if self._mixed else None
        if mixed is not None:
            return mixed if self.rows is None else mixed.index_select(0, self.rows)
        assert self.route is not None
        with full_precision(table.device.type):
            return self.basis.mix(self.route, table.float())


class LayerCall:
    """One call of an adapted layer: all that a bank needs to know.

    Attributes:
        site: Where samples and channels lie in the outputs of the layer.
        module: The layer; for :meth:`~lightning_mm.adapters.kinds.base.Bank.fold` a copy that may be changed.
        args: As the layer is called, changed by banks that do.
        kwargs: As the layer is called, changed by banks that do.
        given: ``(args, kwargs)`` before any bank changed them.
        basis: How availability picks from the banks.
        route: What ``basis.route`` returned for the samples.
        in_place: Whether the output of the layer may be overwritten, see :mod:`lightning_mm.adapters.layers.in_place`.
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
        """What the layer was given first.

        Raises:
            LightningMMError: If it was called without a positional argument or one called ``input``.
        """
        if self.args:
            return self.args[0]
        if "input" not in self.kwargs:
            raise LightningMMError(
                f"layer {self.site.name!r} was called without a first argument or `input`, which its adapter reads; "
                "leave it out with `exclude`"
            )
        return self.kwargs["input"]

    def with_input(self, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the layer with another :attr:`input`."""
        return ((value, *self.args[1:]), self.kwargs) if self.args else ((), {**self.kwargs, "input": value})

    def mix(self, table: Float[Tensor, "row channel"]) -> Float32[Tensor, "batch channel"]:
        """One row for each sample out of a table ``[K, C]``, in float32; zeros for samples that lack nothing."""
        return self._call.mix(table)

    def gather(self, table: Float[Tensor, " row *entry"]) -> Float[Tensor, "batch slot *entry"]:
        """The rows ``[B, S, ...]`` that each sample uses, for kinds whose rows cannot be added up before use."""
        return self.basis.gather(self.route, table)

    def uses_rows(self) -> Bool[Tensor, " batch"]:
        """Which samples use a row at all."""
        return self.basis.uses(self.route)


class Situation:
    """What holds for one adapter in one thread: what was set for calls to come, and the call that runs.

    Args:
        available: For calls that carry none, see ``Adapter.using``.
        enabled: Whether banks modulate, see ``Adapter.disabled``.
        merges: Whether encoders may run on distinct rows alone, see ``Adapter.every_row``.
        call: The one that runs.
        outer: What is restored when it ends.
    """

    def __init__(
        self,
        available: Tensor | None = None,
        enabled: bool = True,
        merges: bool = True,
        call: AdapterCall | None = None,
        outer: Any = None,
    ) -> None:
        self.available, self.enabled, self.merges, self.call, self.outer = available, enabled, merges, call, outer


_SITUATIONS: ContextVar[Mapping[Any, Situation]] = ContextVar("lightning_mm_adapters", default=MappingProxyType({}))


class Current:
    """Finds the situation of one adapter in the running thread; a copy or a pickle of it starts afresh."""

    def __init__(self) -> None:
        self._none = self._in_graphs = Situation()

    @property
    def situation(self) -> Situation:
        return self._in_graphs if tracing() else _SITUATIONS.get().get(self, self._none)

    def begin(self, call: AdapterCall) -> None:
        """Make a call the one that runs; every :meth:`begin` needs an :meth:`end`."""
        now = self.situation
        if tracing():
            self._in_graphs = Situation(now.available, now.enabled, now.merges, call, outer=now)
        else:
            before = _SITUATIONS.get()
            begun = Situation(now.available, now.enabled, now.merges, call, outer=before)
            _SITUATIONS.set({**before, self: begun})

    def end(self) -> None:
        """Drop the call that runs; the one around it, if any, runs on."""
        if tracing():
            self._in_graphs = self._in_graphs.outer
        else:
            _SITUATIONS.set(self.situation.outer)

    @contextmanager
    def setting(self, available: Tensor | None, enabled: bool, merges: bool) -> Iterator[None]:
        """Set what holds for calls to come in this thread; calls that were cut off inside are dropped at the end."""
        before, in_graphs = None if tracing() else _SITUATIONS.get(), self._in_graphs
        now = Situation(available, enabled, merges, self.situation.call, self.situation.outer)
        self._in_graphs = now  # for compiled code, even where it is called from eager code
        if before is not None:
            _SITUATIONS.set({**before, self: now})
        try:
            yield
        finally:
            self._in_graphs = in_graphs
            if before is not None:
                _SITUATIONS.set(before)

    def __deepcopy__(self, memo: dict[int, Any]) -> Current:
        return Current()

    def __reduce__(self) -> tuple[type[Current], tuple[()]]:
        return Current, ()
