"""The inputs of exported programs, derived from an example of a call.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.network.inputs import Call, InputPath, parameter_path
from lightning_mm.errors import LightningMMError
from lightning_mm.export.leaves import AVAILABLE, BATCH, Leaf, completed
from lightning_mm.missing.fills import Nest
from lightning_mm.tree import Path, dotted, is_column, leaves_of, map_leaves, rows_of, tensors_of

Dynamic = Mapping[str, Mapping[int, str]]
"""Name of a tensor to its axes of variable size, each with a name; axes of the same name have the same size."""


class CallInputs:
    """The tensors of all modalities by name, from which it makes calls of the network.

    Args:
        network: The network.
        paths: Where each modality's input is in a call.
        example: ``(args, kwargs)`` of a typical call with an input for every modality.
        dynamic: Axes of variable size besides the batch axis, e.g. ``{"text.values": {1: "steps"}}``.

    Raises:
        LightningMMError: If a modality has no input, another argument is a tensor, a tensor is not batch first, or an
            axis in ``dynamic`` does not exist.
    """

    def __init__(
        self, network: nn.Module, paths: Mapping[str, InputPath], example: Call, dynamic: Dynamic | None = None
    ) -> None:
        self.paths = dict(paths)
        self.leaves: list[Leaf] = []
        self.examples: dict[str, Tensor] = {}
        self.sizes: dict[str, int] = {}
        self._nests: dict[str, Nest] = {}
        template: Call = (tuple(example[0]), dict(example[1]))
        axes = {name: dict(of_name) for name, of_name in (dynamic or {}).items()}
        for name, path in self.paths.items():
            value = path.get(template)
            if not tensors_of(value):
                raise LightningMMError(
                    f"the example has no tensor for modality {name!r}; a program is traced with an input of every "
                    "modality, so give `example` a call with all of them"
                )
            self._nests[name] = map_leaves(value, partial(self._note, axes, name))
            template = path.put(template, None)
        if axes:
            raise LightningMMError(
                f"`dynamic` names {next(iter(axes))!r}, which is no input; the inputs are {list(self.examples)}"
            )
        available = parameter_path(network, AVAILABLE)
        self._template = available.put(template, None) if available is not None else template
        self._refuse_strays(network, example)

    def _note(self, axes: dict[str, dict[int, str]], modality: str, keys: Path, value: Any) -> Any:
        """Replace a tensor by its leaf; constants stay."""
        if not isinstance(value, Tensor):
            return value
        name = Leaf(modality, keys, (), value.dtype).name
        value = value.detach().cpu()
        batch = self.sizes.setdefault(BATCH, len(value) if value.ndim else 0)
        if name in self.examples or name == AVAILABLE:
            raise LightningMMError(f"two inputs are called {name!r}; rename the modality or the key")
        if not value.ndim or not batch or len(value) != batch:
            raise LightningMMError(
                f"input {name!r} of the example has shape {tuple(value.shape)}; expected {batch or 'one or more'} "
                "samples on the first axis, as for all inputs"
            )
        shape: list[int | str] = [BATCH, *value.shape[1:]]
        for axis, called in axes.pop(name, {}).items():
            if not 1 <= axis < value.ndim or not called.isidentifier() or called == BATCH:
                raise LightningMMError(
                    f"`dynamic` of {name!r}: expected an axis from 1 to {value.ndim - 1} and an identifier other than "
                    f"{BATCH!r} that names its size, got {axis} and {called!r}"
                )
            if self.sizes.setdefault(called, value.shape[axis]) != value.shape[axis]:
                raise LightningMMError(
                    f"`dynamic`: axis {axis} of {name!r} has {value.shape[axis]} entries in the example, another axis "
                    f"called {called!r} has {self.sizes[called]}; give them different names"
                )
            shape[axis] = called
        leaf = Leaf(modality, keys, tuple(shape), value.dtype)
        self.leaves.append(leaf)
        self.examples[name] = value
        return leaf

    def _refuse_strays(self, network: nn.Module, example: Call) -> None:
        for path, leaf in leaves_of({**dict(enumerate(example[0])), **example[1]}, is_column):
            if not isinstance(leaf, Tensor) and rows_of(leaf) == self.sizes[BATCH]:
                raise LightningMMError(
                    f"argument {dotted(path)!r} of {type(network).__name__} is a {type(leaf).__name__} with one entry "
                    "per sample; an exported program takes tensors only: make a tensor of it (tokenise texts)"
                )
        args, kwargs = self._template
        strays = [
            dotted(path) for path, leaf in leaves_of({**dict(enumerate(args)), **kwargs}) if isinstance(leaf, Tensor)
        ]
        if strays:
            raise LightningMMError(
                f"argument {strays[0]!r} of {type(network).__name__} is a tensor of no modality; an exported program "
                "takes the inputs of the modalities only: keep the tensor in the network (a buffer), or make it a "
                "modality that is always available"
            )

    def of(self, modalities: Sequence[str]) -> list[Leaf]:
        """Return the leaves of some modalities."""
        return [leaf for leaf in self.leaves if leaf.modality in modalities]

    def call(self, tensors: Mapping[str, Tensor]) -> Call:
        """Make a call of the network with these tensors; plain arguments come from the example."""

        def pick(keys: Path, leaf: Any) -> Any:
            return tensors[leaf.name] if isinstance(leaf, Leaf) else leaf

        call = self._template
        for name, path in self.paths.items():
            call = path.put(call, map_leaves(self._nests[name], pick))
        return call

    def complete(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add placeholders for missing tensors; sizes come from the given tensors, else from the example."""
        return completed(self.leaves, given, self.sizes)

    def draw(self, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Draw random tensors with entries of the example (ids and lengths stay valid), or normal if it is constant."""
        drawn = {}
        for leaf in self.leaves:
            entries = self.examples[leaf.name].flatten()
            shape = leaf.sized({**self.sizes, **sizes})
            if leaf.dtype.is_floating_point:
                entries = entries[entries.isfinite()]
                if not entries.numel() or (entries == entries[0]).all():
                    drawn[leaf.name] = torch.randn(shape, generator=generator).to(leaf.dtype)
                    continue
            drawn[leaf.name] = entries[torch.randint(len(entries), shape, generator=generator)]
        return drawn
