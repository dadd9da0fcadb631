"""Finds the samples of a batch that hold values that are not finite.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_mm.tree import Path, batch_size, dotted, leaves_of, tensors_of

SHOWN = 3
"""How many findings a message names."""


class Finding(NamedTuple):
    """A value that is not finite.

    Args:
        what: Where it is: the modality, or the target.
        row: The sample's place in the batch; None for values that belong to no sample.
        value: ``nan`` or ``inf``.
    """

    what: str
    row: int | None
    value: str


def inputs_of(batch: Any) -> dict[str, Any]:
    """The inputs of a batch of :class:`lightning_mm.data.Collate` by modality; nothing for other batches."""
    inputs = batch.get("inputs") if isinstance(batch, Mapping) else None
    return dict(inputs) if isinstance(inputs, Mapping) else {}


def find(batch: Any, inputs: Mapping[str, Any]) -> list[Finding]:
    """What is not finite in the observed inputs of a batch, or else in the rest of it.

    Args:
        batch: Any batch; its ``observed`` (or ``available``) ``Bool[B, M]`` tells which inputs count.
        inputs: Modality to its input. What has the shape of an input is no part of the rest: it may be the same input
            before absent samples were filled, where anything is allowed.
    """
    size = batch_size(inputs) if inputs else batch_size(batch)
    observed = _mask(batch, size, len(inputs))
    found: list[Finding] = []
    for column, (name, nest) in enumerate(inputs.items()):
        rows = None if observed is None else observed[:, column]
        found += _find_in(nest, f"modality {name!r}", size, rows)
    taken = {tensor.shape for tensor in tensors_of(inputs)}
    return found or list(_find_in(batch, "", size, None, taken))


def describe(findings: list[Finding], batch: Any) -> str:
    """Name the samples by their index, such as ``sample with index 5 holds inf in modality 'audio'``."""
    index = batch.get("index") if isinstance(batch, Mapping) else None
    texts = []
    for finding in findings[:SHOWN]:
        if finding.row is None:
            texts.append(f"the batch holds {finding.value} in {finding.what}")
        elif isinstance(index, Tensor) and index.ndim == 1 and finding.row < len(index):
            texts.append(f"the sample with index {int(index[finding.row])} holds {finding.value} in {finding.what}")
        else:
            texts.append(f"sample {finding.row} of the batch holds {finding.value} in {finding.what}")
    more = f" (and {len(findings) - SHOWN} more)" if len(findings) > SHOWN else ""
    return "; ".join(texts) + more


def _mask(batch: Any, size: int | None, modalities: int) -> Tensor | None:
    for key in ("observed", "available"):
        mask = batch.get(key) if isinstance(batch, Mapping) else None
        if isinstance(mask, Tensor) and mask.shape == (size, modalities):
            return mask.bool()
    return None


def _find_in(
    nest: Any, what: str, size: int | None, rows: Tensor | None, taken: Collection[torch.Size] = ()
) -> Iterator[Finding]:
    """What is not finite in a nest, one finding per sample and leaf.

    Args:
        nest: Any nest of tensors.
        what: Its name; by default the path of each leaf.
        size: Number of samples B.
        rows: Samples that count, ``Bool[B]``; by default all.
        taken: Shapes of leaves to leave out.
    """
    for path, leaf in leaves_of(nest):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.layout != torch.strided:
            continue
        if leaf.shape in taken:
            continue
        name = what or repr(dotted(path))
        wrong = ~leaf.detach().isfinite()
        if leaf.ndim == 0 or len(leaf) != size:
            if bool(wrong.any()):
                yield Finding(name, None, _value(leaf))
            continue
        of_row = wrong.flatten(1).any(1) if leaf.ndim > 1 else wrong
        if rows is not None:
            of_row = of_row & rows.to(of_row.device)
        for row in of_row.nonzero().flatten().tolist():
            yield Finding(_within(name, path) if what else name, row, _value(leaf[row]))


def _within(name: str, path: Path) -> str:
    return f"{name} ({dotted(path)})" if path else name


def _value(tensor: Tensor) -> str:
    return "nan" if bool(tensor.isnan().any()) else "inf"
