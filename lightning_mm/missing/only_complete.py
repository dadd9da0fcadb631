"""A hard table that leaves the complete samples of another one.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.missing.policies import Fields, MissingnessPolicy
from lightning_mm.modalities import Modalities


class OnlyComplete(MissingnessPolicy):
    """The samples of a table that have every modality; rows of all others are empty, which a hard table leaves out.

    For ``train_observed`` of the data module: what a network can learn from that needs complete samples.

    Args:
        table: Says what exists.

    Example:
        >>> from lightning_mm.missing import PairedShare
        >>> table = OnlyComplete(PairedShare(0.5, block=4))
        >>> table.draw(Modalities(["a", "b"]), range(4), epoch=0, seed=0).sum(1).sort().values
        tensor([0, 0, 2, 2])
    """

    def __init__(self, table: MissingnessPolicy) -> None:
        self.table = table

    def bound(self, fields: Fields) -> OnlyComplete:
        return OnlyComplete(self.table.bound(fields))

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        return complete_rows(self.table.draw(modalities, index, epoch=epoch, seed=seed))


def complete_rows(available: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch modality"]:
    """Make rows that are not complete empty."""
    complete: Bool[Tensor, "batch modality"] = torch.where(available.all(1, keepdim=True), available, False)
    return complete
