"""The fields of the files of a job in the queue of this machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightning_mm.schemas.base import Count, Positive, Schema


class LocalJobState(Schema):
    """``job.json``: what was submitted."""

    log: str
    """The file for what it prints, with Slurm's marks."""
    after: list[str] = Field(default_factory=list)
    tasks: list[Count] | None = None
    """Numbers of the tasks of an array; other jobs have none."""
    at_once: Positive | None = None
    """How many of its tasks may run at the same time."""
    jobs: Positive = 1
    """How many tasks of all jobs may run at the same time when one of this job starts."""


class LocalTaskState(Schema):
    """``task.json`` or ``task-3.json``: what became of it."""

    state: Literal["queued", "running", "finished", "failed", "cancelled"] = "queued"
    word: str = "PENDING"
    exit_code: Count | None = None
    restarts: Count = 0
    reason: str = ""
