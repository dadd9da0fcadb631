"""Absent rows cost nothing: an encoder of one modality runs once for all samples that lack it.

A fill puts the same row in the place of every absent sample, and the base is in eval mode: to the encoder of one
modality, all samples of one combination without it are one sample. It is encoded once, and the result is handed to all.

Shapes: B samples, N of them encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.network.inputs import Call, InputPath, map_tensors, parameter_path
from lightning_mm.errors import LightningMMError

if TYPE_CHECKING:
    from lightning_mm.adapters.adapter import Adapter


class AbsentRows:
    """The two hooks of one encoder: before it, rows that repeat are taken out; after it, they are put back."""

    def __init__(self, adapter: Adapter, column: int) -> None:
        self.adapter, self.column = adapter, column
        self.back: Tensor | None = None
        self.encoded = 0
        self.route: Tensor | None = None

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Hand the encoder the rows that differ."""
        adapter, self.back = self.adapter, None
        codes = adapter.codes
        if codes is None or not adapter.running or tracing():  # which rows differ depends on the data
            return None
        keep, back = distinct_rows(codes, self.column, apart=adapter.route is not None)
        if len(keep) == len(codes):
            return None
        self.encoded = len(keep)
        rows, self.back = (torch.tensor(places, device=adapter.device) for places in (keep, back))
        self.route = adapter.route
        if self.route is not None and len(self.route) == len(codes):
            adapter.route, adapter.rows = self.route[rows], rows
        changed: Call = take_rows((args, kwargs), rows, len(codes))
        return changed

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Give every sample what was put out for its row."""
        back, self.back = self.back, None
        if back is None:
            return None
        self.adapter.route, self.adapter.rows, self.route = self.route, None, None
        return take_rows(output, back, self.encoded)


def tracing() -> bool:
    """Whether a graph is being recorded, by torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def full_precision(device: str) -> AbstractContextManager[Any]:
    """Switches autocast off where it is on; entering it costs more than a small product."""
    off: AbstractContextManager[Any] = torch.autocast(device, enabled=False)
    return off if tracing() or torch.is_autocast_enabled(device) else nullcontext()


def distinct_rows(codes: Sequence[int], column: int, apart: bool) -> tuple[list[int], list[int]]:
    """Which samples an encoder has to see, and for every sample the place of its own among these.

    Args:
        codes: The combination of each sample, see ``Modalities.code``.
        column: Of the encoder's modality.
        apart: Whether combinations without the modality differ, as they do when the encoder is adapted.

    Returns:
        N positions in the batch, and B positions among the N.
    """
    keep: list[int] = []
    back: list[int] = []
    first: dict[int, int] = {}
    for row, code in enumerate(codes):
        present = code >> column & 1
        place = len(keep) if present else first.setdefault(code if apart else -1, len(keep))
        back.append(place)
        if place == len(keep):
            keep.append(row)
    return keep, back


def take_rows(nest: Any, rows: Tensor, size: int) -> Any:
    """The given rows of every tensor of a nest whose first axis has ``size`` entries."""

    def take(leaf: Tensor) -> Tensor:
        return leaf.index_select(0, rows.to(leaf.device)) if leaf.ndim and leaf.shape[0] == size else leaf

    return map_tensors(nest, take)


class OneRowForward:
    """Stands in the place of an encoder's ``forward`` in a folded network whose combination lacks its modality.

    All rows are the same there: it runs on the first, and the result is expanded.
    """

    def __init__(self, encoder: nn.Module, modality: str) -> None:
        self.encoder, self.modality = encoder, modality

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        size = leaves_of((args, kwargs))[0].shape[0]
        first = map_tensors((args, kwargs), lambda leaf: leaf[:1])
        output = type(self.encoder).forward(self.encoder, *first[0], **first[1])
        # rows of their own: the network may change them in place
        return map_tensors(output, lambda leaf: leaf.expand(size, *leaf.shape[1:]).contiguous())


def find_encoders(
    network: nn.Module,
    modalities: Sequence[str],
    encoders: Mapping[str, str] | None,
    paths: Mapping[str, InputPath],
    example: Call,
    size: int,
) -> dict[str, str]:
    """The encoders that may run on some rows alone, by trial on the example.

    Args:
        network: The base, in any mode.
        modalities: Names in order.
        encoders: Modality to the name of its encoder; None takes those of ``network.encoders`` that are called like
            modalities and stand the trial.
        paths: Where each modality's input lies in a call.
        example: A call of ``size`` samples, at least two.

    Raises:
        LightningMMError: If an encoder that was named does not exist or does not stand the trial.
    """
    named = encoders is not None
    if encoders is None:
        own = getattr(network, "encoders", None)
        own = own if isinstance(own, nn.ModuleDict) else {}
        encoders = {name: f"encoders.{name}" for name in modalities if name in own}
    modules = dict(network.named_modules())
    for modality, name in encoders.items():
        if modality not in modalities or name not in modules:
            raise LightningMMError(
                f"encoders={{{modality!r}: {name!r}}}: expected a modality out of {list(modalities)} and the name of "
                f"its encoder, a module of {type(network).__name__} such as {[n for n in modules if n][:5]}"
            )
    reasons = {
        modality: _trial(network, modules[name], modality, paths, example, size) for modality, name in encoders.items()
    }
    wrong = {modality: reason for modality, reason in reasons.items() if reason is not None}
    if named and wrong:
        modality, reason = next(iter(wrong.items()))
        raise LightningMMError(
            f"encoder {encoders[modality]!r} of modality {modality!r} cannot run on some of the samples alone: "
            f"{reason}; leave it out of `encoders`"
        )
    return {modality: name for modality, name in encoders.items() if modality not in wrong}


def _trial(
    network: nn.Module, encoder: nn.Module, modality: str, paths: Mapping[str, InputPath], example: Call, size: int
) -> str | None:
    """Why an encoder needs the whole batch or more than its modality, or None; the network is in eval mode."""
    seen: list[tuple[Call, Any]] = []

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        # copies: the network may change them in place
        seen.append(map_tensors(((args, kwargs), output), lambda leaf: leaf.clone()))

    own = paths[modality].get(example)
    if own is None:
        return "the example has no input of its modality"
    available = parameter_path(network, "available")
    own = _disturbed(own, seed=0)  # samples of an example may be copies of one another
    handle = encoder.register_forward_hook(note, with_kwargs=True)
    try:
        for seed in (1, 2):
            call: Call = _disturbed(example, seed)
            call = paths[modality].put(call, own)
            mask = available.get(call) if available else None
            if available and isinstance(mask, Tensor):
                mask[:, list(paths).index(modality)] = True
                call = available.put(call, mask)
            network(*call[0], **call[1])
    except Exception as error:  # of a network that takes no other values, e.g. ids that must come in order
        return f"the network does not run on changed inputs ({type(error).__name__}: {error})"
    finally:
        handle.remove()
    if len(seen) != 2:
        return f"it runs {len(seen) / 2:g} times in one call of the network, not once"
    ((args, kwargs), output), (other, _) = seen
    if not same_tensors((args, kwargs), other):
        return "what it is given depends on more than its modality"
    given, put_out = leaves_of((args, kwargs)), leaves_of(output)
    if not given or not put_out or any(not leaf.ndim or leaf.shape[0] != size for leaf in (*given, *put_out)):
        return "what it is given and puts out are not tensors, batch first"
    rows = torch.arange(size - 1, 0, -1)  # all but the first, in another order
    part = take_rows((args, kwargs), rows, size)
    try:
        alone = encoder(*part[0], **part[1])
    except Exception as error:
        return f"it does not run on its own ({type(error).__name__}: {error})"
    if not same_tensors(alone, take_rows(output, rows, size)):
        return "its output for a sample depends on the other samples"
    return None


def _disturbed(nest: Any, seed: int) -> Any:
    """Other values in every tensor: noise for numbers, other places for whole ones, other flags (not all False)."""
    generator = torch.Generator().manual_seed(seed)

    def change(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point():
            noise = torch.randn(leaf.shape, generator=generator).to(leaf)
            return leaf + (0.1 + leaf.abs()) * noise
        if not leaf.ndim:
            return leaf
        if leaf.dtype == torch.bool:
            flags = torch.rand(leaf.shape, generator=generator) < 0.5
            flags[..., 0] |= ~flags.any(-1)
            return flags.to(leaf.device)
        for axis in range(leaf.ndim):
            leaf = leaf.index_select(axis, torch.randperm(leaf.shape[axis], generator=generator).to(leaf.device))
        return leaf

    return map_tensors(nest, change)


def leaves_of(nest: Any) -> list[Tensor]:
    """The tensors of a nest in order."""
    if isinstance(nest, Tensor):
        return [nest]
    values = nest.values() if isinstance(nest, Mapping) else nest if isinstance(nest, (list, tuple)) else ()
    return [leaf for value in values for leaf in leaves_of(value)]


def same_tensors(one: Any, other: Any) -> bool:
    """Whether two nests hold as many tensors, of equal shapes and of values that are equal but for rounding."""
    pairs = list(zip(leaves_of(one), leaves_of(other)))
    return len(leaves_of(one)) == len(leaves_of(other)) and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in pairs
    )
