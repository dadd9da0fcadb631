"""Grouped mode: split a batch by combination and run the network once per combination.

All samples of a run then share one row of coefficients. This adapts layers with an unknown batch axis and needs no
broadcast of coefficients, but the network runs once for each combination in the batch.

Shapes: B samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.call import AdapterCall, Current
from lightning_mm.adapters.encoders_first import run_encoders
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.tracing import tracing
from lightning_mm.errors import LightningMMError
from lightning_mm.tree import merge_rows, take_rows


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(type(network).forward).parameters.values())[1:]


class GroupedForward:
    """A replacement for a network's ``forward``; an object, so that it survives deepcopy and pickle.

    Args:
        network: The base.
        current: Access to the running call of the adapter.
        begin: Sets the state that the hooks read in a call, for some samples.
        for_all: See ``Adapter``.
    """

    def __init__(
        self,
        network: nn.Module,
        current: Current,
        begin: Callable[[AdapterCall, Tensor], None],
        for_all: Collection[str],
    ) -> None:
        if "forward" in vars(network):
            raise LightningMMError(
                f"this {type(network).__name__} has its own `forward`, set on the object; grouped mode runs the one of "
                "the class: define it there"
            )
        self.network, self.current, self.begin, self.for_all = network, current, begin, for_all
        self.__signature__ = inspect.Signature(_parameters(network))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = type(self.network).forward
        if tracing():
            raise LightningMMError(
                "grouped mode splits a batch by its values, which cannot be compiled or exported; build the adapter "
                "without grouped, or fold it for one combination"
            )
        call = self.current.situation.call
        if call is None or call.available is None:
            return forward(self.network, *args, **kwargs)
        available = call.available
        combinations, members = available.unique(dim=0, return_inverse=True)
        groups = [(members == number).nonzero().flatten() for number in range(len(combinations))]
        outputs = []
        for rows in groups:
            part = self._part((args, kwargs), rows, len(available)) if len(groups) > 1 else (args, kwargs)
            one = AdapterCall(call.basis)
            self.current.begin(one)
            try:
                self.begin(one, available[rows])
                run_encoders(one, partial(forward, self.network), part)
                outputs.append(forward(self.network, *part[0], **part[1]))
            finally:
                self.current.end()
        if len(groups) == 1:
            return outputs[0]
        try:
            return merge_rows(outputs, [len(rows) for rows in groups], torch.cat(groups).argsort())
        except LightningMMError as error:
            raise LightningMMError(f"grouped mode needs outputs that are batch first: {error}") from None

    def _part(self, call: Call, rows: Tensor, size: int) -> Call:
        """Return the call for some samples: their rows of all batch-first leaves."""
        bound = self.__signature__.bind(*call[0], **call[1])
        arguments = take_rows(dict(bound.arguments), rows, size, self.for_all)
        bound.arguments.update(arguments)
        return bound.args, bound.kwargs
