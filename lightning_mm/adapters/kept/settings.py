"""The settings of kept encoder outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning_mm.errors import LightningMMError

MEMORY = "memory"


@dataclass(frozen=True)
class KeepOutputs:
    """Settings of the outputs of frozen encoders that are kept while an adapter behind them is trained.

    Args:
        where: ``memory``, or a folder, from which later runs with the same encoders read what they find.
        gib: GiB (2^30 bytes) that each process may keep in memory, or that the folder may hold. What does not fit is
            encoded in every epoch.

    Raises:
        LightningMMError: If ``gib`` is not a number above 0, or ``where`` is no text.
    """

    where: str = MEMORY
    gib: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.gib, (int, float)) or isinstance(self.gib, bool) or not self.gib > 0:
            raise LightningMMError(f"keep_encoder_outputs.gib: expected more than 0, got {self.gib!r}")
        if not isinstance(self.where, (str, Path)) or not str(self.where):
            raise LightningMMError(
                f"keep_encoder_outputs.where: expected {MEMORY!r} or the path of a folder, got {self.where!r}"
            )
