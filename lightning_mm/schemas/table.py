"""The header of a table of missing modalities."""

from __future__ import annotations

from lightning_mm.schemas.base import Positive, Schema


class TableState(Schema):
    """All of it."""

    format: str
    policy: str
    modalities: list[str]
    size: Positive
    seed: int
    epoch: int
    crc32: int
