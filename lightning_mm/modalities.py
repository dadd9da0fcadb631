"""Modalities in a fixed order, and masks of which are available.

Shapes: B samples, M modalities, C combinations. ``available`` is always ``Bool[B, M]``, True where a modality is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import SEPARATOR, ModalityNames


class Modalities(ModalityNames):
    """An ordered set of modality names; the order fixes the columns of every ``available`` mask.

    Args:
        names: Distinct, non-empty names without ``+``, ``/`` or blanks.

    Raises:
        LightningMMError: If a name is empty, repeated or holds a reserved character.

    Example:
        >>> modalities = Modalities(["rgb", "depth"])
        >>> modalities.combinations()
        ('rgb', 'depth', 'rgb+depth')
        >>> modalities.mask("depth").tolist()
        [False, True]
    """

    def mask(self, combination: str) -> Bool[Tensor, " modality"]:
        """``available`` of one combination, ``Bool[M]``."""
        present = self.parse(combination)
        return torch.tensor([name in present for name in self.names])

    def masks(self, combinations: Sequence[str] | None = None) -> Bool[Tensor, "combination modality"]:
        """``available`` of several combinations (default: all), ``Bool[C, M]``."""
        return torch.stack([self.mask(combination) for combination in combinations or self.combinations()])

    def name(self, available: Bool[Tensor, " modality"] | Sequence[bool]) -> str:
        """The combination of one row of a mask; the empty string when nothing is available."""
        flags = available.tolist() if isinstance(available, Tensor) else list(available)
        if len(flags) != len(self):
            raise LightningMMError(f"expected {len(self)} flags, one for each of {list(self.names)}, got {len(flags)}")
        return SEPARATOR.join(name for name, flag in zip(self.names, flags) if flag)

    def code(self, available: Bool[Tensor, " *batch modality"]) -> Int[Tensor, " *batch"]:
        """One integer per row of a mask, ``Bool[..., M] -> Int[...]``: bit m is set when modality m is available."""
        if len(self) > 62:
            raise LightningMMError(f"a combination of {len(self)} modalities does not fit one integer; 62 are the most")
        weights = 2 ** torch.arange(len(self), device=available.device)
        return (available.long() * weights).sum(-1)
