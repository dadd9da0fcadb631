"""A replacement for the ``forward`` of an encoder that runs it on the samples that have its modality only.

What belongs to one call (the mask, the outputs so far) is found through a ``ContextVar``, so that threads and nested
calls do not interfere; outside of such a call the encoder is as it was.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.tree import leaves_of, map_leaves, map_tensors, tensors_of


class FilledCall:
    """One call of a network with the outputs of encoders filled.

    Args:
        owner: The fill; encoders with another one are not changed.
        available: ``Bool[B, M]``.
        given: Modality to the output that its encoder returns without running; None to run them.
        keeps: Whether the outputs of encoders are kept in :attr:`seen`.

    Attributes:
        seen: Modality to the output of its encoder in this call; None in its place unless it ``keeps`` them.
    """

    def __init__(
        self,
        owner: object,
        available: Bool[Tensor, "batch modality"],
        given: Mapping[str, Any] | None = None,
        keeps: bool = False,
    ) -> None:
        self.owner, self.available, self.given, self.keeps = owner, available, given, keeps
        self.seen: dict[str, Any] = {}


_RUNNING: ContextVar[FilledCall | None] = ContextVar("lightning_mm_filled_features", default=None)


@contextmanager
def running(call: FilledCall) -> Iterator[FilledCall]:
    """Make this the call that encoders belong to."""
    token = _RUNNING.set(call)
    try:
        yield call
    finally:
        _RUNNING.reset(token)


class EncoderForward:
    """The replacement, an object, so that it survives deepcopy and pickle.

    Args:
        encoder: The encoder; its own ``forward`` stays in its class.
        owner: The fill.
        modality: Name of the modality.
        column: Its column of ``available``.
        row: Returns the output for an absent sample of a modality, with one row.
        shapes: Of the tensors in its arguments, without the batch axis, if the size of its output depends on them.
    """

    def __init__(
        self,
        encoder: nn.Module,
        owner: object,
        modality: str,
        column: int,
        row: Callable[[str], Any],
        shapes: list[tuple[int, ...]] | None = None,
    ) -> None:
        self.encoder, self.owner, self.modality, self.column = encoder, owner, modality, column
        self.row, self.shapes = row, shapes
        before = vars(encoder).get("forward")  # set on the object, not by us
        self.own: Any = before.own if isinstance(before, EncoderForward) else before

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the encoder itself."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.encoder).forward(self.encoder, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = _RUNNING.get()
        if call is None or call.owner is not self.owner:
            return self.run(*args, **kwargs)
        if call.given is not None:
            # a copy: the network may change it in place
            return map_tensors(call.given[self.modality], lambda leaf: leaf.clone())
        present = call.available[:, self.column]
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            # which rows to run on depends on the data, so a graph cannot record it
            call.seen[self.modality] = None
            return self._placed(self.run(*args, **kwargs), None, present)
        given = tensors_of((args, kwargs))
        if not given or given[0].shape[:1] != present.shape:
            came = tuple(given[0].shape) if given else "no tensor"
            raise LightningMMError(
                f"the encoder of {self.modality!r} ran on {came} in a call of {len(present)} samples; a fill of "
                "features needs encoders that get one row per sample"
            )
        shapes = [tuple(leaf.shape[1:]) for leaf in given]
        if self.shapes is not None and shapes != self.shapes:
            raise LightningMMError(
                f"the encoder of {self.modality!r} got inputs of shapes {shapes}, and the features of the fill are "
                f"those of inputs of shapes {self.shapes}; write them with data of this size (`lightning-mm features`)"
            )
        output = self._filled(present, args, kwargs)
        # a copy: the network may change it in place
        call.seen[self.modality] = map_tensors(output, lambda leaf: leaf.clone()) if call.keeps else None
        return output

    def _filled(self, present: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        size = len(present)
        if bool(present.all()):
            return self.run(*args, **kwargs)
        if not bool(present.any()):
            return map_tensors(
                self.row(self.modality),
                lambda leaf: leaf.expand(size, *leaf.shape[1:]).clone(memory_format=torch.contiguous_format),
            )
        rows = present.nonzero()[:, 0]
        part = map_tensors(
            (args, kwargs),
            # lists of numbers in the call of an encoder are sizes and no samples
            lambda leaf: leaf.index_select(0, rows.to(leaf.device)) if leaf.ndim and len(leaf) == size else leaf,
        )
        return self._placed(self.run(*part[0], **part[1]), rows, present)

    def _placed(self, output: Any, rows: Tensor | None, present: Tensor) -> Any:
        """Put an output of the present samples in its place, and the row of an absent sample in all others."""
        fills = dict(leaves_of(self.row(self.modality)))

        def place(path: Any, leaf: Tensor) -> Tensor:
            row = fills.get(path)
            if row is None or row.shape[1:] != leaf.shape[1:]:
                came = "nothing" if row is None else str(tuple(row.shape[1:]))
                raise LightningMMError(
                    f"the encoder of {self.modality!r} returns {tuple(leaf.shape[1:])} for a sample, and the features "
                    f"of the fill have {came} there; write them with data of this size and this network "
                    "(`lightning-mm features`)"
                )
            row = row.to(leaf)
            if rows is None:
                return torch.where(present.to(leaf.device).view(-1, *[1] * (leaf.ndim - 1)), leaf, row)
            whole = row.expand(len(present), *row.shape[1:])
            return whole.index_copy(0, rows.to(leaf.device), leaf)

        return map_leaves(output, place)
