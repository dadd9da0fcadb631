"""Grouped mode: a batch is split by combination, and the network runs once for each.

One row of coefficients then holds for all samples of a run. It is the way out for layers whose batch axis cannot be
told, and saves the broadcast of coefficients; the network runs as often as there are combinations in the batch.

Shapes: B samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.absent_rows import tracing
from lightning_mm.adapters.network.inputs import Call, map_named_tensors, mapping_like
from lightning_mm.errors import LightningMMError

if TYPE_CHECKING:
    from lightning_mm.adapters.adapter import Adapter


def tensors_for_all(network: nn.Module, example: Call, size: int) -> list[str]:
    """Names of the tensors of a call that are not batch first in the example (of ``size`` samples): for all samples."""
    found: list[str] = []

    def note(name: str, tensor: Tensor) -> Tensor:
        if not tensor.ndim or tensor.shape[0] != size:
            found.append(name)
        return tensor

    bound = inspect.Signature(_parameters(network)).bind(*example[0], **example[1])
    map_named_tensors(bound.arguments, note)
    return found


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(type(network).forward).parameters.values())[1:]


class GroupedForward:
    """Stands in the place of a network's ``forward``; an object, so that it survives deepcopy and pickle."""

    def __init__(self, adapter: Adapter, network: nn.Module) -> None:
        if "forward" in vars(network):
            raise LightningMMError(
                f"this {type(network).__name__} has a `forward` of its own, set on the object; grouped mode needs that "
                "of its class"
            )
        self.adapter, self.network = adapter, network
        self.__signature__ = inspect.Signature(_parameters(network))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        adapter, forward = self.adapter, type(self.network).forward
        if tracing():
            raise LightningMMError("grouped mode splits a batch by what it holds, which cannot be compiled or exported")
        available = adapter.mask
        if available is None:
            return forward(self.network, *args, **kwargs)
        groups: dict[int, list[int]] = {}
        for row, code in enumerate(adapter.modalities.code(available).tolist()):
            groups.setdefault(code, []).append(row)
        outputs = []
        for rows in groups.values():
            index = torch.tensor(rows, device=available.device)
            part = self._part((args, kwargs), index, len(available)) if len(groups) > 1 else (args, kwargs)
            adapter.set_available(available[index])
            outputs.append(forward(self.network, *part[0], **part[1]))
        adapter.set_available(available)
        order = torch.tensor([row for rows in groups.values() for row in rows], device=available.device)
        sizes = [len(rows) for rows in groups.values()]
        return _merged(outputs, order.argsort(), sizes) if len(outputs) > 1 else outputs[0]

    def _part(self, call: Call, rows: Tensor, size: int) -> Call:
        """The call for some samples: their rows of all that is batch first."""
        for_all: Collection[str] = self.adapter.for_all

        def take(name: str, tensor: Tensor) -> Tensor:
            if name in for_all or not tensor.ndim or tensor.shape[0] != size:
                return tensor
            return tensor.index_select(0, rows.to(tensor.device))

        bound = self.__signature__.bind(*call[0], **call[1])
        bound.arguments = map_named_tensors(bound.arguments, take)
        return bound.args, bound.kwargs


def _merged(parts: Sequence[Any], back: Tensor, sizes: Sequence[int]) -> Any:
    """The outputs of all groups in the order of the batch."""
    first = parts[0]
    if isinstance(first, Tensor):
        if any(not part.ndim or part.shape[0] != size for part, size in zip(parts, sizes)):
            raise LightningMMError(
                f"grouped mode needs outputs that are batch first; of groups of {list(sizes)} samples the network made "
                f"{[tuple(part.shape) for part in parts]}"
            )
        return torch.cat(list(parts)).index_select(0, back.to(first.device))
    if isinstance(first, Mapping):
        return mapping_like(first, {key: _merged([part[key] for part in parts], back, sizes) for key in first})
    if isinstance(first, (list, tuple)):
        items = [_merged(column, back, sizes) for column in zip(*parts)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    if any(part != first for part in parts):
        raise LightningMMError(f"grouped mode cannot join outputs of type {type(first).__name__} that differ")
    return first
