"""Runs of an adapted network for a check: state that is restored, comparisons, and the layer where two runs part.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from lightning_mm.adapters import Adapter
from lightning_mm.adapters.folded.proof import CLOSE, difference
from lightning_mm.adapters.network.eval_mode import quiet
from lightning_mm.adapters.network.example import Example, bound_arguments, take_samples
from lightning_mm.adapters.network.inputs import Call, InputPath, parameter_path
from lightning_mm.testing.invariance import output_tensors
from lightning_mm.tree import Path, leaves_of, map_tensors, tensors_of

TOLERANCES = {torch.float64: 1e-8, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""The largest difference, relative to the largest output, if none is given, by the dtype of the outputs."""
TOLERANCE = 1e-3
"""The same for all other dtypes."""

MOST_COMBINATIONS = 8
"""Combinations that are looked at, at most."""

Outputs = dict[str, Tensor]
"""Path to tensor in the outputs of a network."""


class Wrong(Exception):
    """A property that does not hold.

    Args:
        expected: What was expected.
        came: What came.
        way: The way out.
    """

    def __init__(self, expected: str, came: str, way: str) -> None:
        super().__init__(f"expected {expected}; got {came}; {way}")


class State:
    """The weights and buffers of a network as they are now."""

    def __init__(self, network: nn.Module) -> None:
        self._kept = [
            (f"{prefix}.{key}" if prefix else key, table, key, tensor, tensor.detach().clone())
            for prefix, module in network.named_modules()
            for table in (module._parameters, module._buffers)
            for key, tensor in table.items()
            if tensor is not None
        ]
        self._versions = [tensor._version for _, _, _, tensor, _ in self._kept]

    def changed(self) -> list[str]:
        """Return the names of weights and buffers that have other values now."""
        found = []
        for (name, table, key, tensor, value), version in zip(self._kept, self._versions):
            now: Any = table.get(key)
            touched = now is not tensor or tensor._version != version
            if touched and not (now is not None and now.shape == value.shape and same(now.detach(), value)):
                found.append(name)
        return found

    def restore(self) -> None:
        """Undo changes."""
        for place, (_, table, key, tensor, value) in enumerate(self._kept):
            if table.get(key) is not tensor:
                table[key] = tensor
            if tensor._version != self._versions[place]:
                with torch.no_grad():
                    tensor.copy_(value)
                self._versions[place] = tensor._version


class Subject:
    """An adapted network and a batch to check it on.

    Args:
        base: The network.
        adapter: Its adapter, attached.
        example: A batch of at least as many samples as there are combinations to mix.
        masks: A mask for each sample of the batch, mixed, ``Bool[B, M]``.
        aliases: Where the call passes a tensor of a modality a second time, see :func:`aliases_of`.
        state: The weights and buffers of the base as they were.
        tolerance: The largest difference by rounding, relative to the largest output; None for :data:`TOLERANCES`.
    """

    def __init__(
        self,
        base: nn.Module,
        adapter: Adapter,
        example: Example,
        masks: Bool[Tensor, "batch modality"],
        aliases: Mapping[Path, tuple[str, int]],
        state: State,
        tolerance: float | None,
    ) -> None:
        self.base, self.adapter, self.example, self.masks = base, adapter, example, masks
        self.aliases, self.state, self._tolerance = dict(aliases), state, tolerance
        self.full = torch.ones_like(masks)
        self._available = parameter_path(base, "available")

    def rows(self, rows: Int[Tensor, " taken"]) -> Call:
        """Return the call of some samples."""
        return take_samples(self.base, self.example.call, rows, self.example.size, self.example.shared)

    def call(self, available: Bool[Tensor, "batch modality"], call: Call | None = None) -> Call:
        """Return the call with this mask, if the network takes one."""
        call = self.example.call if call is None else call
        return call if self._available is None else self._available.put(call, available)

    def forward(self, available: Bool[Tensor, "batch modality"], call: Call | None = None) -> Any:
        """Run the network with its adapter as it is called by a user."""
        args, kwargs = self.call(available, call)
        with self.adapter.using(available):
            return self.base(*args, **kwargs)

    def run(self, available: Bool[Tensor, "batch modality"], call: Call | None = None) -> Outputs:
        """Run without gradients, with the same random numbers each time; the state of the base is restored."""
        with torch.no_grad(), seeded():
            outputs = collected(self.forward(available, call))
        self.state.restore()
        return outputs

    def bare(self, available: Bool[Tensor, "batch modality"], call: Call | None = None) -> Outputs:
        """Run the network without hooks in eval mode; its state is not restored."""
        args, kwargs = self.call(available, call)
        return bare(self.base, (args, kwargs))

    def apart(self, found: Outputs, expected: Outputs) -> float:
        """Measure the largest difference, relative to the largest value of its tensor; infinite for other shapes."""
        coarsest = max((CLOSE.get(one.dtype, 1e-4) for pair in (found, expected) for one in pair.values()), default=1.0)
        return difference(found, expected) * coarsest

    def tolerance(self, outputs: Outputs) -> float:
        """Return the largest difference that counts as rounding."""
        own = [TOLERANCES.get(one.dtype, TOLERANCE) for one in outputs.values() if one.is_floating_point()]
        return max(own, default=TOLERANCE) if self._tolerance is None else self._tolerance


def bare(network: nn.Module, call: Call) -> Outputs:
    """Run a network in eval mode, frozen as a base is, with the same random numbers each time."""
    # torch's matmul takes another kernel for weights that need gradients, also in no_grad()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with quiet(network), seeded():
            return collected(network(*call[0], **call[1]))
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def seeded() -> Iterator[None]:
    """Run with the same random numbers each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def collected(outputs: Any) -> Outputs:
    """Return copies of all tensors in outputs by their paths."""
    return {f"output{path}": leaf.clone() for path, leaf in output_tensors(outputs)}


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal bit by bit, NaN included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def all_same(one: Outputs, other: Outputs) -> bool:
    """Return whether all outputs are equal bit by bit."""
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def aliases_of(network: nn.Module, call: Call, paths: Mapping[str, InputPath]) -> dict[Path, tuple[str, int]]:
    """Find tensors of modalities that a call passes a second time, in another argument.

    Returns:
        Path from the name of a parameter of ``forward`` on, to the modality and the position of the tensor in it.
    """
    own = {
        id(tensor): (name, place)
        for name, path in paths.items()
        for place, tensor in enumerate(tensors_of(path.get(call)))
    }
    inputs = [(path.name, *path.keys) for path in paths.values()]
    leaves = leaves_of(dict(bound_arguments(network, call).arguments))
    return {
        place: own[id(leaf)]
        for place, leaf in leaves
        if id(leaf) in own and not any(place[: len(one)] == one for one in inputs)
    }


def first_apart(
    network: nn.Module, one: Callable[[], object], other: Callable[[], object], agree: Callable[[Any, Any], bool]
) -> str | None:
    """Return the name of the first module with outputs that do not agree in two runs, or None.

    Args:
        network: Its modules are watched; the network itself is not.
        one: A run.
        other: The other run.
        agree: Whether the outputs of one module agree.
    """

    def outputs_of(run: Callable[[], object]) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []

        def watch(name: str) -> Callable[..., None]:
            return lambda _module, _args, output: found.append((name, map_tensors(output, torch.clone)))

        handles = [module.register_forward_hook(watch(name)) for name, module in network.named_modules() if name]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        return found

    with torch.no_grad():
        for (name, first), (also, second) in zip(outputs_of(one), outputs_of(other)):
            if name != also:
                return None
            if not agree(first, second):
                return name
    return None
