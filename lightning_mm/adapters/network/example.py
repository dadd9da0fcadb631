"""The example of a call: which of its leaves belong to samples, and the same call for other numbers of samples.

A leaf with as many rows as the example has samples need not have one row per sample: class prompts, queries or an image
size can be as long as the batch. The network tells: a leaf with one row per sample fits no other number of samples.

Shapes: B samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations, count, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_mm.adapters.network.eval_mode import quiet
from lightning_mm.adapters.network.inputs import Call, InputPath, forward_of, parameter_path
from lightning_mm.errors import LightningMMError
from lightning_mm.tree import (
    Path,
    batch_size,
    dotted,
    is_column,
    leaves_of,
    map_leaves,
    map_tensors,
    rows_of,
    take_rows,
    tensors_of,
)

TRIALS = 24
"""The most calls of the network that tell which leaves belong to samples."""


def bound_arguments(network: nn.Module, call: Call) -> inspect.BoundArguments:
    """Return the arguments of a call by the names of the parameters of ``forward``.

    Raises:
        LightningMMError: If they do not fit the parameters.
    """
    try:
        return forward_of(network).bind(*call[0], **call[1])
    except TypeError as error:
        raise LightningMMError(
            f"the arguments of the call do not fit {type(network).__name__}.forward{forward_of(network)}: {error}"
        ) from None


@dataclass(frozen=True)
class Example:
    """A typical call of a network.

    Args:
        network: The network.
        call: Its arguments.
        size: B, at least one.
        shared: Dotted paths of the leaves that are the same for all samples, from the name of a parameter of
            ``forward`` on (``"batch.prompts"``).
    """

    network: nn.Module
    call: Call
    size: int
    shared: frozenset[str] = frozenset()

    def of(self, size: int) -> Example:
        """Repeat or drop samples to get ``size``; also replaces NaN and infinity."""
        call = take_samples(self.network, self.call, torch.arange(size) % self.size, self.size, self.shared)
        return Example(self.network, map_tensors(call, _finite), size, self.shared)

    def change(self, change: Callable[[Tensor], Tensor]) -> Call:
        """Return the call with ``change(leaf)`` for every tensor with one row per sample."""
        bound = bound_arguments(self.network, self.call)

        def each(path: Path, leaf: Any) -> Any:
            whole = not isinstance(leaf, Tensor) or rows_of(leaf) != self.size or dotted(path) in self.shared
            return leaf if whole else change(leaf)

        bound.arguments.update(map_leaves(dict(bound.arguments), each))
        return bound.args, bound.kwargs

    def run(self, call: Call | None = None) -> Any:
        """Run the network on the example, or on a call made from it.

        Raises:
            LightningMMError: If it fails; the message tells the reason and what was tried.
        """
        args, kwargs = self.call if call is None else call
        try:
            return self.network(*args, **kwargs)
        except LightningMMError:
            raise
        except Exception as error:
            raise LightningMMError(
                f"{type(self.network).__name__} does not run on `example` with {self.size} samples "
                f"({type(error).__name__}: {_first_line(error)}). It was tried with {self._described()}. Inputs must "
                "be batch first, one row per sample, and any number of samples must run; for other inputs (lists of "
                "images, packed sequences, graphs) adapt the part of the network that gets a padded batch"
            ) from error

    def _described(self) -> str:
        leaves = leaves_of(bound_arguments(self.network, self.call).arguments, is_column)
        found = [f"{dotted(path)} {_form(leaf)}" for path, leaf in leaves if isinstance(leaf, Tensor) or rows_of(leaf)]
        return ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")


def take_samples(network: nn.Module, call: Call, rows: Tensor, size: int, shared: Collection[str]) -> Call:
    """Return a call of ``size`` samples for some of them: their rows of all leaves that belong to samples."""
    bound = bound_arguments(network, call)
    bound.arguments.update(take_rows(dict(bound.arguments), rows, size, shared))
    return bound.args, bound.kwargs


def example_of(network: nn.Module, call: Call, paths: Mapping[str, InputPath], filled: bool = True) -> Example:
    """Check the inputs of an example and find the leaves that are the same for all samples.

    A network that takes ``available`` gets all modalities, even if the example lacks some: every layer must run.

    A leaf belongs to samples if the network only runs when it has one row for each, or if it only returns one row for
    each then. Inputs of modalities always do.

    Args:
        network: The network; runs in eval mode without gradients and is left as it was.
        call: A typical call.
        paths: Path to the input of each modality.
        filled: Whether absent inputs are filled, so that every tensor in them needs one row per sample.

    Raises:
        LightningMMError: If the inputs of the modalities are not batch first, or the network does not run.
    """
    size, available = _samples_of(call, paths, filled), parameter_path(network, "available")
    if available is not None:
        call = available.put(call, torch.ones(size, len(paths), dtype=torch.bool))
    example = Example(network, call, size)
    leaves = leaves_of(bound_arguments(network, call).arguments, is_column)
    own = [_path_in(network, path) for path in (*paths.values(), InputPath(None, "available"))]
    fixed = {dotted(path) for path, leaf in leaves if _may_have_rows(leaf) and rows_of(leaf) != example.size}
    undecided = [
        path for path, leaf in leaves if rows_of(leaf) == example.size and not any(path[: len(o)] == o for o in own)
    ]
    if undecided:
        with quiet(network):
            fixed |= _shared(example, undecided)
    return Example(network, call, example.size, frozenset(fixed))


def free_sizes(network: nn.Module, call: Call) -> Iterator[int]:
    """Yield the numbers of samples, from 3 on, that are no length in the call or in the weights of the network."""
    tensors = [*tensors_of(call), *network.parameters(), *network.buffers()]
    used = {length for tensor in tensors if not tensor.is_nested for length in tensor.shape}
    used |= {len(leaf) for _, leaf in leaves_of(call, is_column) if is_column(leaf)}
    return (size for size in count(3) if size not in used)


def _samples_of(call: Call, paths: Mapping[str, InputPath], filled: bool) -> int:
    """Return the number of samples of a call, which the inputs of all modalities must agree on."""
    sizes: dict[str, list[int | None]] = {}
    for name, path in paths.items():
        value = path.get(call)
        if value is None:
            continue
        leaves = [leaf for _, leaf in leaves_of(value, is_column) if leaf is not None]
        odd = [leaf for leaf in leaves if isinstance(leaf, Tensor) and (leaf.is_nested or leaf.layout != torch.strided)]
        packed = any(isinstance(leaf, PackedSequence) for leaf in leaves)
        if packed or odd or not any(_may_have_rows(leaf) for leaf in leaves):
            kind = "nested or sparse tensor" if odd else "PackedSequence" if packed else type(value).__name__
            raise LightningMMError(
                f"modality {name!r} is a {kind}, whose samples cannot be told apart; pass a tensor with one row per "
                "sample (padded, with its lengths or a mask) and pack, convert or build graphs from it inside "
                "`forward`, or adapt the part of the network that gets such a tensor"
            )
        every = list(dict.fromkeys(rows_of(leaf) for leaf in leaves if _may_have_rows(leaf)))
        sizes[name] = every if filled else [batch_size(value)]
    found = list(dict.fromkeys(size for each in sizes.values() for size in each))
    if found in ([], [0]):
        raise LightningMMError("`example` must be (args, kwargs) of a typical call with at least one sample")
    if len(found) > 1 or found[0] is None:
        listed = "; ".join(
            f"{name!r} has {' and '.join('no axis' if size is None else str(size) for size in each)}"
            for name, each in sizes.items()
        )
        raise LightningMMError(
            "the inputs of all modalities must be batch first, with one row per sample, but their first axes differ: "
            f"{listed}. Pad lists of images and the nodes or points of graphs to tensors [B, ...] with a mask, and "
            "take them apart inside `forward`; or adapt the part of the network that gets such tensors"
        )
    return found[0]


def _path_in(network: nn.Module, path: InputPath) -> Path:
    """Return the path to an input from the name of a parameter of ``forward`` on."""
    parameters = forward_of(network).parameters
    others = [name for name, one in parameters.items() if one.kind is one.VAR_KEYWORD]
    start = (path.name,) if path.name in parameters or not others else (others[0], path.name)
    return (*start, *path.keys)


def _shared(example: Example, undecided: list[Path]) -> set[str]:
    """Return the dotted paths of those leaves that the network takes as they are with another number of samples."""
    network, (size, other) = example.network, islice(free_sizes(example.network, example.call), 2)
    returned = _shapes(example.run(), example.size, size)
    # one row may stand for all samples by broadcasting; two rows may not
    kept = example if example.size > 1 else example.of(other)
    leaves = {dotted(path): leaf for path, leaf in leaves_of(bound_arguments(network, kept.call).arguments, is_column)}

    def run(names: Collection[str]) -> Any:
        """Run with other samples and these leaves as they are; return the shapes of the outputs, None if it fails."""
        bound = bound_arguments(network, example.of(size).call)
        each = partial(_replaced, leaves, names)
        bound.arguments.update(map_leaves(dict(bound.arguments), each, (), is_column))
        try:
            return _shapes(network(*bound.args, **bound.kwargs))
        except Exception:  # any error of any library: these leaves need one row per sample
            return None

    resized, found = run(()), set[str]()
    for names in islice(_choices([dotted(path) for path in undecided]), TRIALS):
        if found.issuperset(names):
            continue
        shapes = run(found.union(names))
        if shapes is not None and (shapes == returned or resized != returned):
            found.update(names)
        if len(found) == len(undecided):
            break
    return found


def _choices(names: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield sets of leaves: all, those of one argument, all but one, pairs, single ones."""
    yield tuple(names)
    arguments = [name.partition(".")[0] for name in names]
    for argument in dict.fromkeys(arguments):
        yield tuple(name for name, other in zip(names, arguments) if other == argument)
    for size in dict.fromkeys((len(names) - 1, 1, 2)):
        yield from combinations(names, size)


def _replaced(leaves: Mapping[str, Any], names: Collection[str], path: Path, leaf: Any) -> Any:
    name = dotted(path)
    return leaves[name] if name in names else leaf


def _shapes(outputs: Any, size: int = -1, other: int = -1) -> list[tuple[str, Any]]:
    """Return the shapes of all outputs, with the first axis of ``size`` rows as if it had ``other`` rows."""
    shapes: list[tuple[str, Any]] = []
    for path, leaf in leaves_of(outputs, is_column):
        rows = rows_of(leaf)
        rest = tuple(leaf.shape[1:]) if isinstance(leaf, Tensor) else ()
        shapes.append((dotted(path), (other if rows == size else rows, *rest)))
    return shapes


def _may_have_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) or rows_of(leaf) is not None


def _finite(tensor: Tensor) -> Tensor:
    return torch.nan_to_num(tensor) if tensor.is_floating_point() else tensor


def _form(leaf: Any) -> str:
    return str(list(leaf.shape)) if isinstance(leaf, Tensor) else f"{type(leaf).__name__} of {rows_of(leaf)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
