"""Submits a study as a graph of arrays: one array per level, each after the one before, however that ended.

A task asks the markers of what its cell needs, so that a failure stops only what hangs on it and nothing waits for
ever. Submitting again queues what is neither finished nor queued.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from lightning_mm.cluster.graph.cells import REPORT, Cell, Progress, cells_of, levels_of, progress_of
from lightning_mm.cluster.graph.folder import SUBMITS, JobsFolder
from lightning_mm.cluster.graph.jobs import LIVE, SchedulerOf, known_jobs
from lightning_mm.cluster.graph.report import report_is_written
from lightning_mm.cluster.scheduler import Job, Scheduler
from lightning_mm.cluster.graph.frozen import thaw
from lightning_mm.compare.plan import Plan
from lightning_mm.compare.step_runner import LOCK
from lightning_mm.compare.study import Study
from lightning_mm.errors import LightningMMError
from lightning_mm.files import lock, write_atomically
from lightning_mm.schemas.jobs import Submission, SubmittedJob

LARGEST = 1000
"""Tasks of an array; Slurm's MaxArraySize is 1001 unless a site has changed it."""


@runtime_checkable
class Scripts(Protocol):
    """Writes the text of a job's script."""

    def __call__(self, name: str, command: Sequence[str], output: Path, array: bool) -> str:
        """Write the text of a script.

        Args:
            name: The name of the job.
            command: The words of the command; ``$LIGHTNING_MM_TASK`` is the number of a task.
            output: The file for what it prints, without its end.
            array: Whether it runs once per task.
        """
        ...


@dataclass(frozen=True)
class Batch:
    """One job that is to be queued: some cells of a level as an array, or the report.

    Args:
        name: Its file in the folder of jobs, such as ``1/level0``.
        level: The level of its cells; the report comes after all.
        cells: One per task; none for the report.
        script: The text of its script.
    """

    name: str
    level: int
    cells: tuple[Cell, ...]
    script: str


@dataclass(frozen=True)
class Queue:
    """What is to be queued, and why the rest is not.

    Args:
        batches: The jobs, in their order.
        finished: How many cells are finished.
        live: Cell (or the report) to its job that is queued or running.
        cells: All cells.
    """

    batches: tuple[Batch, ...]
    finished: int
    live: Mapping[str, Job]
    cells: tuple[Cell, ...]


def plan_jobs(
    study: Study,
    scripts: Scripts,
    jobs: Mapping[str, Job],
    number: int = 1,
    largest: int = LARGEST,
) -> Queue:
    """Plan the jobs of a study; nothing is written.

    Args:
        study: The study.
        scripts: Writes their scripts.
        jobs: Cell to its latest job.
        number: The number of the submission.
        largest: How many tasks an array may have.
    """
    plan = Plan(study)
    cells = cells_of(plan)
    progress = progress_of(plan, cells)
    folder = JobsFolder(study.out)
    live = {name: job for name, job in jobs.items() if job.state in LIVE}
    batches = list(_batches(folder, progress, cells, live, scripts, number, largest, study.name))
    finished = sum(progress.is_finished(cell) for cell in cells)
    if batches or not (REPORT in live or report_is_written(folder, progress)):
        name = f"{number}/{REPORT}"
        words = ("lightning-mm", "cell", str(study.out.absolute()), REPORT)
        level = len(levels_of(cells))
        script = scripts(f"{study.name}-{REPORT}", words, folder.path / name, False)
        batches.append(Batch(name, level, (), script))
    return Queue(tuple(batches), finished, live, tuple(cells))


def _batches(
    folder: JobsFolder,
    progress: Progress,
    cells: Sequence[Cell],
    live: Mapping[str, Job],
    scripts: Scripts,
    number: int,
    largest: int,
    study: str,
) -> Iterator[Batch]:
    for level, group in enumerate(levels_of(cells)):
        wanted = [cell for cell in group if not progress.is_finished(cell) and cell.name not in live]
        for start in range(0, len(wanted), largest):
            part = f"level{level}" + (f"_{start // largest}" if len(wanted) > largest else "")
            name = f"{number}/{part}"
            words = ("lightning-mm", "cell", str(folder.study.absolute()), name, "$LIGHTNING_MM_TASK")
            script = scripts(f"{study}-{part}", words, folder.path / name, True)
            yield Batch(name, level, tuple(wanted[start : start + largest]), script)


def submit_jobs(
    folder: JobsFolder,
    scripts: Scripts,
    scheduler: Scheduler,
    name: str,
    scheduler_of: SchedulerOf,
    limit: int | None = None,
    largest: int = LARGEST,
) -> Queue:
    """Queue what is neither finished nor queued.

    Args:
        folder: That of a study that was prepared, see :func:`prepare`.
        scripts: Writes the scripts of jobs.
        scheduler: Queues them.
        name: The name of the scheduler, for the ledger.
        scheduler_of: Makes the schedulers of earlier submissions, by name.
        limit: How many tasks of an array may run at once.
        largest: How many tasks an array may have.

    Raises:
        LightningMMError: If a script is not accepted; jobs that were queued before stay queued, and submitting again
            queues the others.
    """
    with lock(folder.path / LOCK, SUBMITS):
        ledger = folder.read_ledger()
        study = thaw(folder.path, folder.study)
        number = len(ledger.submissions) + 1
        queue = plan_jobs(study, scripts, known_jobs(folder, ledger, scheduler_of), number, largest)
        if not queue.batches:
            return queue
        for batch in queue.batches:
            folder.write_tasks(batch.name, [cell.name for cell in batch.cells])
            write_atomically(folder.path / f"{batch.name}.sh", batch.script)
        scheduler.check(folder.path / f"{queue.batches[0].name}.sh")  # all ask for the same
        submission = Submission(scheduler=name, time=time.strftime("%Y-%m-%d %H:%M:%S"))
        ledger.submissions.append(submission)
        after: list[str] = []
        before: list[str] = []
        level = queue.batches[0].level
        for batch in queue.batches:
            if batch.level != level:
                after, before, level = before, [], batch.level
            needed = _live_needs(batch, queue)
            array = None if not batch.cells else f"0-{len(batch.cells) - 1}" + (f"%{limit}" if limit else "")
            try:
                job = scheduler.submit(folder.path / f"{batch.name}.sh", list(dict.fromkeys([*after, *needed])), array)
            except LightningMMError as error:
                queued = len(submission.jobs)
                more = f"; {queued} of {len(queue.batches)} jobs are queued, `resubmit` queues the others"
                raise LightningMMError(f"{error}{more if queued else ''}") from error
            before.append(job)
            submission.jobs.append(SubmittedJob(id=job, tasks=batch.name if batch.cells else None))
            folder.write_ledger(ledger)  # at once: a job that is queued must be known
        return queue


def _live_needs(batch: Batch, queue: Queue) -> list[str]:
    """The jobs of earlier submissions that a batch waits for: those of levels before its own."""
    depth = {cell.name: level for level, group in enumerate(levels_of(queue.cells)) for cell in group}
    found = (job.id for name, job in queue.live.items() if name != REPORT and depth.get(name, 0) < batch.level)
    return list(dict.fromkeys(one.partition("_")[0] for one in found))
