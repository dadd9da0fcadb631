"""Which cells of a sample a masked autoencoder sees.

Shapes: B samples, M modalities, N cells of each; a cell is a square or cube of an image or volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.policies import random_uniform


def draw_shown(
    observed: Bool[Tensor, "batch modality"],
    cells: int,
    share: float,
    index: Sequence[int] | Tensor,
    *,
    epoch: int,
    seed: int,
) -> Bool[Tensor, "batch modality cell"]:
    """Draw the cells that are shown: first whole modalities are hidden, then cells of those that are left.

    Of the modalities that a sample has, 0 to all but one are hidden, each number as likely as the others. Then
    ``round((1 - share) M N)`` cells of the rest are shown, so that the share of hidden cells is the same for every
    sample, whatever was hidden before; all cells of the rest if there are fewer. A pure function of (seed, index,
    epoch).

    Args:
        observed: What exists.
        cells: Number N of cells of a modality.
        share: Share of hidden cells among all M * N, 0 to 1, exclusive.
        index: Positions of the samples in their data set.
        epoch: The epoch.
        seed: The seed.

    Reference:
        The order and the fixed total of M3AE (AAAI 2023); own code, checked with statistics of the official one.
    """
    batch, modalities = observed.shape
    uniform = torch.from_numpy(random_uniform(seed, epoch, index, 1 + modalities + modalities * cells))
    first, of_modality, of_cell = uniform.split([1, modalities, modalities * cells], dim=1)
    exists = observed.cpu()
    hidden = (first * exists.sum(1, keepdim=True)).floor()
    # modalities that exist in random order: the first `hidden` of them go
    order = torch.where(exists, of_modality, 2.0).argsort(1).argsort(1)
    left = exists & (order >= hidden)
    numbers = torch.where(left.unsqueeze(2), of_cell.view(batch, modalities, cells), 2.0).flatten(1)
    shown = max(1, round((1 - share) * modalities * cells))
    chosen = numbers.argsort(1).argsort(1) < shown
    return (chosen.view(batch, modalities, cells) & left.unsqueeze(2)).to(observed.device)


def grid_of(size: Sequence[int], cell: int) -> tuple[int, ...]:
    """Number of cells along each axis.

    Raises:
        LightningMMError: If a size is no multiple of a cell.
    """
    if any(side % cell for side in size):
        raise LightningMMError(
            f"sizes must be divisible by cell={cell}, the side of a cell that is hidden, got {tuple(size)}; set cell"
        )
    return tuple(side // cell for side in size)


def on_pixels(
    shown: Bool[Tensor, "batch modality cell"], size: Sequence[int], cell: int
) -> Bool[Tensor, "batch modality *size"]:
    """Spread cells over their pixels or voxels."""
    spread = shown.unflatten(2, grid_of(size, cell))
    for axis in range(2, 2 + len(size)):
        spread = spread.repeat_interleave(cell, dim=axis)
    return spread


def cells_in(size: Sequence[int], cell: int) -> int:
    """Number of cells of a modality."""
    return int(np.prod(grid_of(size, cell)))
