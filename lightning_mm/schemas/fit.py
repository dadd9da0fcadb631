"""The fields of ``fit.json``: how far a training has come, next to its ``fit.yaml``."""

from __future__ import annotations

from lightning_mm.schemas.base import Count, Schema, Sha256


class FitState(Schema):
    """All of it."""

    key: Sha256
    """Of the settings."""
    step: Count = 0
    """Of the checkpoint from which the last start went on that was farther than the one before; of the end at last."""
    restart: Count = 0
    """How often the job had been requeued then."""
    finished: bool = False
