"""The settings of kept encoder outputs."""

from __future__ import annotations

from dataclasses import dataclass

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
        LightningMMError: If ``gib`` is not above 0.
    """

    where: str = MEMORY
    gib: float = 2.0

    def __post_init__(self) -> None:
        if not self.gib > 0:
            raise LightningMMError(f"keep_encoder_outputs.gib: expected more than 0, got {self.gib}")
