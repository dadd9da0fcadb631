"""The fields of the files of a submitted study: which jobs run which cells, and what became of a cell."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lightning_mm.schemas.base import Count, Schema
from lightning_mm.schemas.job_settings import JobSettings

JobId = Annotated[str, Field(pattern=r"^[\w.+:-]{1,100}$")]
TaskFile = Annotated[str, Field(pattern=r"^[0-9]+/[a-z0-9_]+$")]


class SubmittedJob(Schema):
    """One job: an array of cells, or the report."""

    id: JobId
    tasks: TaskFile | None = None
    """Name of the file that lists the cells of an array, one a line; the report has none."""


class Submission(Schema):
    """What one ``submit`` or ``resubmit`` has queued."""

    scheduler: str
    time: str
    jobs: list[SubmittedJob] = Field(default_factory=list)


class Ledger(Schema):
    """All submissions of a study, and with what its jobs are asked for."""

    folder: str
    """The working directory of the jobs."""
    command: str = ""
    """How the study was submitted."""
    settings: JobSettings = Field(default_factory=lambda: JobSettings.model_validate({}))
    """What the scripts of its jobs are made of."""
    submissions: list[Submission] = Field(default_factory=list)


class CellState(Schema):
    """What a cell's own task says of it; markers alone say that a step is finished."""

    state: Literal["running", "finished", "failed", "not_run", "stopped"]
    step: str = ""
    reason: str = ""
    log: str = ""
    job: str = ""
    host: str = ""
    time: str = ""
    key: str = ""
    """Of the report: hash of what it was made of."""
    restarts: Count = 0
    """How often its job was queued again before."""
