"""The modules that are exported: they take named tensors in a fixed order and output tensors.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool, Shaped
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.folded.constants import fold_constant_encoders
from lightning_mm.adapters.folded.features import fold_features
from lightning_mm.adapters.folded.network import Folded, fold_network
from lightning_mm.adapters.network.inputs import Call, InputPath, parameter_path
from lightning_mm.errors import LightningMMError
from lightning_mm.export.inputs import CallInputs
from lightning_mm.missing import FeatureFill, Fill
from lightning_mm.modalities import Modalities
from lightning_mm.tree import tensors_of


class Source(nn.Module):
    """A copy of the network on the CPU, with its adapter or without one; runs eagerly and folds.

    Args:
        network: The network; with an adapter, the base that it is attached to.
        modalities: Names in order.
        paths: Where each modality's input is in a call.
        fill: The fill of a network without an adapter; an adapter has one itself.
        adapter: The adapter.
    """

    adapter: Adapter | None

    def __init__(
        self,
        network: nn.Module,
        modalities: Modalities,
        paths: Mapping[str, InputPath],
        fill: Fill | None,
        adapter: Adapter | None = None,
    ) -> None:
        super().__init__()
        if any(parametrize.is_parametrized(module) for module in network.modules()):
            raise LightningMMError(
                f"{type(network).__name__} has parametrised layers (peft ssf or lora, weight norm), which no graph "
                "holds; put them into the weights first: network.fold(), or torch.nn.utils.parametrize"
            )
        # copied together, so that hooks of the copied network lead to the copied adapter
        self.network, self.adapter, own = copy.deepcopy((network, adapter, fill))
        self.own_fill = own if self.adapter is None else None
        self.features = own if isinstance(own, FeatureFill) else None
        if self.features is not None:
            self.features.install(self.network, modalities)
        self.modalities, self.paths = modalities, dict(paths)
        self.available_path = parameter_path(network, "available")
        self.cpu().eval().requires_grad_(False)

    @property
    def fill(self) -> Fill | None:
        return self.own_fill if self.adapter is None else self.adapter.fill

    @contextmanager
    def filled_by(self, fill: Fill | None) -> Iterator[None]:
        """Use another fill within the block."""
        before, owner, name = self.fill, self.adapter or self, "own_fill" if self.adapter is None else "fill"
        setattr(owner, name, fill)
        try:
            yield
        finally:
            setattr(owner, name, before)

    def forward(self, call: Call, available: Bool[Tensor, "batch modality"]) -> Any:
        """Run the network; a batch may mix combinations."""
        if self.adapter is not None:
            with self.adapter.using(available):
                return self.network(*call[0], **call[1])
        for column, (name, path) in enumerate(self.paths.items()):
            if self.own_fill is not None:
                call = path.put(call, self.own_fill(name, path.get(call), available[:, column]))
        if self.available_path is not None:
            call = self.available_path.put(call, available)
        if self.features is not None:
            return self.features.run(self.network, available, lambda: self.network(*call[0], **call[1]))
        return self.network(*call[0], **call[1])

    def fold(self, combination: str) -> Folded:
        """Make the plain network of one combination.

        Raises:
            LightningMMError: If the adapter cannot be folded.
        """
        if self.adapter is not None:
            return fold_network(self.network, self.adapter, combination, prove=False)  # programs are compared
        network = self.network
        if self.features is not None:
            network = fold_features(network, self.features, self.modalities.parse(combination))
        return Folded(network, combination, self.modalities.mask(combination), self.own_fill, self.paths)


class FixedRows(Fill):
    """A fill with the rows of another one stored as tensors: a program can hold no generator and no file.

    Raises:
        LightningMMError: If a row has a fixed size on an axis of variable size.
    """

    def __init__(self, fill: Fill, inputs: CallInputs) -> None:
        super().__init__()
        self._buffer_of: dict[tuple[str, str], str] = {}
        for number, leaf in enumerate(inputs.leaves):
            if leaf.is_length:
                continue  # the length of an absent sequence is one for every fill
            row = fill.row(leaf.modality, inputs.examples[leaf.name], leaf.inner).detach().cpu().clone()
            for axis, size in enumerate(leaf.shape[1:], start=1):
                own = axis - len(leaf.shape) + row.ndim
                if isinstance(size, str) and own >= 0 and row.shape[own] != 1:
                    raise LightningMMError(
                        f"`dynamic`: axis {axis} of {leaf.name!r} cannot change its size, as the fill "
                        f"{type(fill).__name__} has {row.shape[own]} entries there for an absent sample"
                    )
            self._buffer_of[leaf.modality, leaf.inner] = f"row_{number}"
            self.register_buffer(f"row_{number}", row)

    def row(self, name: str, leaf: Shaped[Tensor, " batch *rest"], path: str = "") -> Tensor:
        row: Tensor = getattr(self, self._buffer_of[name, path])
        return row


class CombinationProgram(nn.Module):
    """The program of one combination: takes the tensors of its modalities and makes placeholders for the others.

    Args:
        folded: The network of the combination; its fill is replaced by fixed rows.
        inputs: The inputs.
        modalities: The modalities of the combination.
        constants: Whether encoders of absent modalities become constants if the sizes of their inputs are fixed.
    """

    def __init__(self, folded: Folded, inputs: CallInputs, modalities: tuple[str, ...], constants: bool = True) -> None:
        super().__init__()
        self.folded, self.inputs = folded, inputs
        if folded.fill is not None:
            folded.fill = FixedRows(folded.fill, inputs)
        if constants:
            fixed = [
                name
                for name in inputs.paths
                if not any(isinstance(size, str) for leaf in inputs.of([name]) for size in leaf.shape[1:])
            ]
            fold_constant_encoders(folded, folded.combination, inputs.call(inputs.examples), fixed)
        self.names = [leaf.name for leaf in inputs.of(modalities)]

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        call = self.inputs.call(self.inputs.complete(dict(zip(self.names, tensors))))
        return flat(self.folded(*call[0], **call[1]))


class MixedProgram(nn.Module):
    """The program for all combinations: takes all tensors and ``available``; rows may differ."""

    def __init__(self, source: Source, inputs: CallInputs) -> None:
        super().__init__()
        self.source, self.inputs = source, inputs
        self.names = [leaf.name for leaf in inputs.leaves]

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        *given, available = tensors
        return flat(self.source(self.inputs.call(dict(zip(self.names, given))), available))


def flat(outputs: Any) -> Tensor | tuple[Tensor, ...]:
    """Return a tensor unchanged, the tensors of a nest as a tuple."""
    return outputs if isinstance(outputs, Tensor) else tuple(tensors_of(outputs))
