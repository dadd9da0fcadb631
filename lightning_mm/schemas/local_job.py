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
    gpus: Count = 0
    """How many GPUs each of its tasks has to itself; 0 for a share of those that are there."""
    visible: list[str] | None = None
    """The GPUs of this machine that its tasks may use; ``None`` if that is not known."""
    jobs: Positive = 1
    """How many tasks of all jobs may run at the same time when one of this job starts."""


class LocalTaskState(Schema):
    """``task.json`` or ``task-3.json``: what became of it."""

    state: Literal["queued", "running", "finished", "failed", "cancelled"] = "queued"
    word: str = "PENDING"
    exit_code: Count | None = None
    restarts: Count = 0
    reason: str = ""
    gpus: list[str] = Field(default_factory=list)
    """The GPUs of a task that runs."""
