"""Modalities in a fixed order, and masks of which are available.

Shapes: B samples, M modalities, C combinations. ``available`` is always ``Bool[B, M]``, True where a modality is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

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


def check_mask(what: str, mask: Any, modalities: Sequence[str]) -> Bool[Tensor, "batch modality"]:
    """Return a mask, if it is ``Bool[B, M]``.

    Args:
        what: Its name, for messages.
        mask: The mask.
        modalities: Names of its columns.

    Raises:
        LightningMMError: If it is anything else; the message says what to write instead.
    """
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim == 2 and mask.shape[1] == len(modalities):
        return mask
    came, way = f"a {type(mask).__name__}", "make it a tensor: torch.as_tensor(mask, dtype=torch.bool)"
    if isinstance(mask, Tensor):
        came, way = f"{mask.dtype} {tuple(mask.shape)}", "give one column for each of these, in this order"
        if mask.shape == (len(modalities),):
            way = "give every sample its row: mask.expand(batch_size, -1)"
        elif mask.ndim == 2 and mask.shape[1] == len(modalities):
            way = "True means available: write mask.bool() if it holds 1 and 0"
    raise LightningMMError(
        f"{what}: expected Bool[B, {len(modalities)}], one column for each of {list(modalities)}, got {came}; {way}"
    )


def check_rows(what: str, mask: Bool[Tensor, "batch modality"]) -> None:
    """Refuse a mask with an empty row, where looking at its values costs nothing: not on a GPU, not while tracing.

    Raises:
        LightningMMError: If a sample has no modality at all.
    """
    if may_look(mask) and not bool(mask.any(1).all()):
        refuse_empty_rows(what, (~mask.any(1)).nonzero()[:, 0].tolist())


def refuse_empty_rows(what: str, rows: Sequence[int]) -> NoReturn:
    """Raise the error of samples without any modality."""
    raise LightningMMError(
        f"{what}: no modality is available in rows {list(rows[:10])} of the batch{' and more' * (len(rows) > 10)}; a "
        "combination has at least one, so leave such samples out"
    )


def may_look(mask: Tensor) -> bool:
    """Return whether the values of a tensor are at hand: not those on a GPU, and not where a graph is recorded."""
    return mask.device.type == "cpu" and not (torch.compiler.is_compiling() or torch._C._get_tracing_state())
