"""The latest job of every cell, and what its scheduler says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lightning_mm.cluster.graph.cells import REPORT
from lightning_mm.cluster.graph.folder import JobsFolder
from lightning_mm.cluster.scheduler import Job, Scheduler
from lightning_mm.errors import LightningMMError
from lightning_mm.schemas.jobs import Ledger
from lightning_mm.signals import REQUEUE

LIVE = ("queued", "running")
"""States of a job that has not ended."""
SchedulerOf = Callable[[str], Scheduler]
"""The scheduler of that name, ``slurm`` or ``local``."""


@dataclass
class Jobs:
    """What is known of the jobs of a study.

    Args:
        latest: Cell (or the report) to its latest job.
        schedulers: Cell to the name of the scheduler of that job.
        logs: Cell to the file of what its job prints.
        silent: Scheduler to why it could not be asked.
    """

    latest: dict[str, Job] = field(default_factory=dict)
    schedulers: dict[str, str] = field(default_factory=dict)
    logs: dict[str, Path] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    def live(self) -> Mapping[str, list[str]]:
        """Scheduler to the ids of its jobs that have not ended, arrays as a whole, those that wait for others first."""
        found: dict[str, list[str]] = {}
        for name, job in reversed(self.latest.items()):
            ids = found.setdefault(self.schedulers[name], [])
            whole = job.id.partition("_")[0]
            if job.state in LIVE and whole not in ids:
                ids.append(whole)
        return {name: ids for name, ids in found.items() if ids}


def ask_jobs(folder: JobsFolder, ledger: Ledger, scheduler_of: SchedulerOf) -> Jobs:
    """Ask the schedulers of a study what became of its latest jobs.

    A scheduler that cannot be asked, such as Slurm on a machine without it, leaves its jobs ``unknown``.

    Args:
        folder: The study's.
        ledger: Its submissions.
        scheduler_of: Makes the scheduler of a name.
    """
    jobs = Jobs()
    ids: dict[str, str] = {}  # cell to the id of its task
    for number, submission in enumerate(ledger.submissions, 1):
        for job in submission.jobs:
            if job.tasks is None:
                cells, logs = {REPORT: job.id}, {REPORT: folder.path / f"{number}/{REPORT}.log"}
            else:
                names = folder.read_tasks(job.tasks)
                cells = {cell: f"{job.id}_{task}" for task, cell in enumerate(names)}
                logs = {cell: folder.path / f"{job.tasks}-{task}.log" for task, cell in enumerate(names)}
            ids.update(cells)
            jobs.logs.update(logs)
            jobs.schedulers.update(dict.fromkeys(cells, submission.scheduler))
    for name in dict.fromkeys(jobs.schedulers.values()):
        own = [one for cell, one in ids.items() if jobs.schedulers[cell] == name]
        try:
            scheduler = scheduler_of(name)
            arrays = list(dict.fromkeys(one.partition("_")[0] for one in own))
            said = dict(scheduler.states(arrays))
            # Slurm soon forgets tasks that have ended, while others of their array still run.
            forgotten = [one for one in own if one not in said and one.partition("_")[0] not in said]
            if forgotten:
                said |= scheduler.states(forgotten)
            followed = _followed(folder, {cell: ids[cell] for cell in ids if jobs.schedulers[cell] == name}, said)
            if followed:
                ids |= followed
                said |= scheduler.states(list(followed.values()))
        except LightningMMError as error:
            jobs.silent[name], said = str(error), {}
        for cell, one in ids.items():
            if jobs.schedulers[cell] == name:
                jobs.latest[cell] = said.get(one) or Job(one, "unknown")
    return jobs


def _followed(folder: JobsFolder, ids: Mapping[str, str], said: Mapping[str, Job]) -> dict[str, str]:
    """Cell to the job that went on where its own had to stop: a script that may not requeue itself submits another."""
    found = {}
    for cell, one in ids.items():
        job = said.get(one)
        note = folder.read_cell(cell) if job is not None and job.exit_code == REQUEUE else None
        if note is not None and _number(note.job) > _number(one):
            found[cell] = note.job
    return found


def _number(job: str) -> int:
    number = job.partition("_")[0]
    return int(number) if number.isdigit() else 0


def known_jobs(folder: JobsFolder, ledger: Ledger, scheduler_of: SchedulerOf) -> Mapping[str, Job]:
    """Cell to its latest job.

    Raises:
        LightningMMError: If a scheduler cannot be asked: its jobs may be queued, and would be queued twice.
    """
    jobs = ask_jobs(folder, ledger, scheduler_of)
    for name, why in jobs.silent.items():
        raise LightningMMError(
            f"{why}; jobs of this study were submitted to {name} and may still be queued there. If none is, remove "
            f"{folder.ledger}, which lists them"
        )
    return jobs.latest
