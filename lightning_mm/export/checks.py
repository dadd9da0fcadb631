"""Compares a program on disk with the eager network, on data that it was not traced with.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.export.formats import Opened
from lightning_mm.export.index import ANY
from lightning_mm.export.inputs import CallInputs
from lightning_mm.export.leaves import AVAILABLE, BATCH
from lightning_mm.export.programs import Source
from lightning_mm.tree import tensors_of

Case = tuple[dict[str, Tensor], list[Tensor]]
"""The inputs of a program by name, and the outputs of the eager network for them."""

MOST_MASKS = 1023
"""The most combinations that these rows are drawn from."""
MOST_ROWS = 15
"""Rows of the mixed batch of a check."""


@torch.no_grad()
def cases(program: str, source: Source, inputs: CallInputs, traced: int, seed: int) -> list[Case]:
    """Draw random data for one program: a single sample, and another batch size, twice as long if lengths may change.

    Absent places of the program for all combinations hold NaN; for the eager network they hold ordinary values.

    Args:
        program: A combination, or ``"any"``.
        source: The eager network with hooks, not folded, so that the fold is checked too.
        inputs: The inputs.
        traced: The batch size that the program was traced with.
        seed: Seed of the data.
    """
    return list(_cases(program, source, inputs, traced, torch.Generator().manual_seed(seed)))


def _cases(program: str, source: Source, inputs: CallInputs, traced: int, generator: torch.Generator) -> Iterator[Case]:
    many = traced + 2
    if program == ANY:
        masks = source.modalities.masks(source.modalities.sampled(MOST_MASKS))
        masks = masks[torch.randperm(len(masks), generator=generator)[:MOST_ROWS]]
        available = [masks[:1], masks if len(masks) != traced else torch.cat([masks, masks])]
    else:
        available = [source.modalities.mask(program).expand(size, -1) for size in (1, many)]
    for step, present in enumerate(available, start=1):
        sizes = {name: step * size for name, size in inputs.sizes.items()} | {BATCH: len(present)}
        drawn = inputs.draw(sizes, generator)
        if program == ANY:
            given = drawn if source.fill is None else _poisoned(drawn, inputs, source, present)
            given = {**given, AVAILABLE: present}
        else:
            given = {leaf.name: drawn[leaf.name] for leaf in inputs.of(source.modalities.parse(program))}
            drawn = inputs.complete(given)
        yield given, tensors_of(source(inputs.call(drawn), present))


def _poisoned(
    drawn: dict[str, Tensor], inputs: CallInputs, source: Source, available: Bool[Tensor, "batch modality"]
) -> dict[str, Tensor]:
    """Set absent places to NaN."""
    spoiled = dict(drawn)
    for leaf in inputs.leaves:
        if leaf.dtype.is_floating_point:
            tensor = drawn[leaf.name]
            present = available[:, source.modalities.index(leaf.modality)].view(-1, *[1] * (tensor.ndim - 1))
            spoiled[leaf.name] = torch.where(present, tensor, torch.nan)
    return spoiled


def largest_difference(opened: Opened, names: Sequence[str], expected: Sequence[Case], what: str) -> float:
    """Measure the largest difference of a program from the eager network over all cases and outputs.

    Raises:
        LightningMMError: If it cannot be run, or its outputs have other shapes or dtypes.
    """
    largest = 0.0
    for given, outputs in expected:
        try:
            found = opened([given[name] for name in names])
        except Exception as error:
            shapes = {name: tuple(given[name].shape) for name in names}
            raise LightningMMError(
                f"{what} fails on inputs of shapes {shapes}, which the network itself takes: "
                f"{type(error).__name__}: {str(error)[:500]}"
            ) from error
        kinds = [[(tuple(one.shape), one.dtype) for one in some] for some in (found, outputs)]
        if kinds[0] != kinds[1]:
            raise LightningMMError(f"{what} outputs {kinds[0]}, the network itself {kinds[1]}")
        largest = max([largest, *(difference(one, other) for one, other in zip(found, outputs))])
    return largest


def difference(found: Shaped[Tensor, "*output"], expected: Shaped[Tensor, "*output"]) -> float:
    """Measure the largest absolute difference, relative to the largest expected magnitude if that is above one.

    Infinite if one value is finite and the other is not.
    """
    if not expected.numel():
        return 0.0
    found, expected = found.double(), expected.double()
    same = (found == expected) | (found.isnan() & expected.isnan())
    if not (same | (found.isfinite() & expected.isfinite())).all():
        return math.inf
    apart = torch.where(same, 0.0, (found - expected).abs())
    scale = torch.where(expected.isfinite(), expected.abs(), 0.0).max().clamp(min=1)
    return float(apart.max() / scale)
