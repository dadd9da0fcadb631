"""Block-wise missingness: all samples of a session, site or patient lack the same modalities.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from lightning_mm.errors import LightningMMError, check_whole
from lightning_mm.missing.mechanisms.field_table import field_values
from lightning_mm.missing.policies import Fields, MissingnessPolicy
from lightning_mm.modalities import Modalities


class Blockwise(MissingnessPolicy):
    """Draws once for each block of samples, which all lack the same modalities.

    A block is all samples with the same value of a field, wherever they are, or ``length`` consecutive ones. The blocks
    are the samples of the inner policy, so that ``MissingRates(0.3)`` makes each modality missing in 30 % of the
    *blocks*: with few of them, the share of samples is far from it. Blocks of a field are numbered in the order of
    their values. Where the inner policy depends on a field, a block has that of its first sample.

    Args:
        policy: What a block lacks.
        field: The field whose values are the blocks, see :class:`~lightning_mm.missing.DependsOnField`.
        length: Number of consecutive samples of a block, if there is no field.
        table: A CSV file to read the field from.

    Raises:
        LightningMMError: If not exactly one of ``field`` and ``length`` is given, or ``table`` without a field; in
            :meth:`bound`, if the data set has no such field.

    Example:
        >>> from lightning_mm.missing import MissingRates
        >>> policy = Blockwise(MissingRates(0.5), length=3)
        >>> drawn = policy.draw(Modalities(["rgb", "depth"]), range(6), epoch=0, seed=0)
        >>> bool((drawn[:3] == drawn[0]).all() and (drawn[3:] == drawn[3]).all())
        True
    """

    def __init__(
        self, policy: MissingnessPolicy, field: str | None = None, length: int | None = None, table: str | None = None
    ) -> None:
        if (field is None) == (length is None) or (field is None and table is not None):
            raise LightningMMError(
                f"Blockwise: expected a field (and perhaps a table of it) or a length, got field={field!r}, "
                f"length={length!r}, table={table!r}"
            )
        if length is not None:
            check_whole("Blockwise: length", length, 1)
        self.policy, self.field, self.length, self.table = policy, field, length, table
        self._block: NDArray[np.int64] | None = None

    def bound(self, fields: Fields) -> Blockwise:
        bound = copy(self)
        if self.field is None:
            bound.policy = self.policy.bound(lambda name: fields(name)[:: self.length])
            return bound
        values = np.array(field_values(self.field, self.table, fields), dtype=object)
        _, first, block = np.unique(values.astype(str), return_index=True, return_inverse=True)
        bound._block = block.reshape(-1).astype(np.int64)

        def of_blocks(name: str) -> list[str]:
            given = fields(name)  # once: labels may have to be read with their samples
            return [given[place] for place in first.tolist()]

        bound.policy = self.policy.bound(of_blocks)
        return bound

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        samples = np.asarray(index, dtype=np.int64)
        if self._block is not None:
            blocks = self._block[samples]
        elif self.length is not None:
            blocks = samples // self.length
        else:
            raise LightningMMError(
                f"{self!r} needs the field {self.field!r} of the samples: ModalityDropoutDataModule gets it from the "
                "data set; elsewhere call bound first, such as bound({'site': [...]}.__getitem__)"
            )
        return self.policy.draw(modalities, blocks.tolist(), epoch=epoch, seed=seed)
