"""Run the encoder of one modality once for all samples that lack it.

A fill gives every absent sample the same row and the base is in eval mode, so the samples of one combination without
the modality look identical to its encoder. It encodes one of them, and all of them receive that output.

Shapes: B samples, N of them encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lightning_mm.adapters.call import AdapterCall, Current
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.tracing import tracing
from lightning_mm.modalities import Modalities, refuse_empty_rows
from lightning_mm.tree import map_tensors


def incomplete_codes(modalities: Modalities, available: Bool[Tensor, "batch modality"]) -> list[int] | None:
    """Return the combination of each sample, see ``Modalities.code``; None if all samples are complete.

    Raises:
        LightningMMError: If a row is empty: on a GPU the check of the mask does not look at its values.
    """
    codes = modalities.code(available).tolist()
    if 0 in codes:
        refuse_empty_rows("`available`", [row for row, code in enumerate(codes) if code == 0])
    return codes if any(code != 2 ** len(modalities) - 1 for code in codes) else None


class Merged:
    """One run of an encoder on the distinct rows of a batch.

    Args:
        encoder: The hooks of the encoder.
        back: For each of B samples, its position among the encoded rows; None if the encoder ran on all rows.
        encoded: N.
        call: The running call; its route and rows are restored after the encoder.
    """

    def __init__(self, encoder: AbsentRows, back: Tensor | None, encoded: int, call: AdapterCall) -> None:
        self.encoder, self.back, self.encoded = encoder, back, encoded
        self.route, self.rows = call.route, call.rows


class AbsentRows:
    """The two hooks of one encoder: drop repeated rows before it runs, and restore them in its output.

    Args:
        current: Access to the running call of the adapter.
        column: Column of the encoder's modality.
    """

    def __init__(self, current: Current, column: int) -> None:
        self.current, self.column = current, column

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Pass only the distinct rows to the encoder."""
        call = self.current.situation.call
        # which rows are distinct depends on the data, so a graph cannot record it
        if tracing() or call is None or call.codes is None:
            return None
        codes, route, rows = call.codes, call.route, None
        keep, places = distinct_rows(codes, self.column, apart=route is not None)
        back = None
        if len(keep) < len(codes):
            assert call.available is not None
            rows, back = (torch.tensor(one, device=call.available.device) for one in (keep, places))
        call.merged.append(Merged(self, back, len(keep), call))
        if rows is None:
            return None
        if route is not None and len(route) == len(codes):
            call.route, call.rows = route[rows], rows
        changed: Call = _taken((args, kwargs), rows, len(codes))
        return changed

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Return the output of its row to every sample; also runs after an exception in the encoder."""
        call = None if tracing() else self.current.situation.call
        if call is None or not call.merged or call.merged[-1].encoder is not self:
            return None
        merged = call.merged.pop()
        call.route, call.rows = merged.route, merged.rows
        return None if merged.back is None or output is None else _taken(output, merged.back, merged.encoded)


def _taken(nest: Any, rows: Tensor, size: int) -> Any:
    """Take rows of tensors only: in the calls of an encoder, lists of numbers are sizes and no samples."""
    return map_tensors(nest, lambda one: one.index_select(0, rows) if one.ndim and one.shape[0] == size else one)


def distinct_rows(codes: Sequence[int], column: int, apart: bool) -> tuple[list[int], list[int]]:
    """Find the samples that an encoder must run on, and the position of every sample among these.

    Args:
        codes: The combination of each sample, see ``Modalities.code``.
        column: Column of the encoder's modality.
        apart: Whether each combination without the modality needs its own row, as it does if the encoder is adapted.

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
