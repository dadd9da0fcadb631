"""The fields of ``job.json`` in a run folder: the job that was submitted last."""

from __future__ import annotations

from typing import Literal

from lightning_mm.schemas.base import Schema
from lightning_mm.schemas.jobs import JobId


class RunJobState(Schema):
    """All of it."""

    scheduler: Literal["slurm", "local"]
    id: JobId
    merge: JobId | None = None
    """The job that merges the shards of a sweep."""
    command: str = ""
    """How it was submitted."""
    time: str = ""
