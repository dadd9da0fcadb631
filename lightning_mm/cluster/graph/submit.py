"""Submits a study as a graph of arrays: one array per level, each after the one before, however that ended.

A task asks the markers of what its cell needs, so that a failure stops only what hangs on it and nothing waits for
ever. Submitting again queues what is neither finished nor queued.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_mm.cluster.graph.cells import REPORT, Cell, cells_of, levels_of, progress_of
from lightning_mm.cluster.graph.folder import SUBMITS, JobsFolder
from lightning_mm.cluster.graph.frozen import thaw
from lightning_mm.cluster.graph.jobs import LIVE, SchedulerOf, known_jobs
from lightning_mm.cluster.graph.report import report_is_written
from lightning_mm.cluster.scheduler import Job
from lightning_mm.cluster.script import TASK, Script
from lightning_mm.compare.plan import Plan
from lightning_mm.compare.step_runner import LOCK
from lightning_mm.compare.study import Study
from lightning_mm.errors import LightningMMError
from lightning_mm.files import lock, write_atomically
from lightning_mm.schemas.jobs import Ledger, Submission, SubmittedJob


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


def plan_jobs(study: Study, ledger: Ledger, jobs: Mapping[str, Job], largest: int) -> Queue:
    """Plan the jobs of a study; nothing is written.

    Args:
        study: The study.
        ledger: Its earlier submissions, and what its jobs ask for.
        jobs: Cell to its latest job.
        largest: How many tasks an array may have.
    """
    plan = Plan(study)
    cells = cells_of(plan)
    progress = progress_of(plan, cells)
    folder = JobsFolder(study.out.absolute())
    live = {name: job for name, job in jobs.items() if job.state in LIVE}
    number = len(ledger.submissions) + 1

    def batch(part: str, level: int, tasks: Sequence[Cell]) -> Batch:
        name = f"{number}/{part}"
        words = ["cell", str(folder.study), *([name, f"${TASK}"] if tasks else [REPORT])]
        log = folder.path / (f"{name}-%a.log" if tasks else f"{name}.log")
        title = f"{ledger.settings.name or study.name}-{part}"
        where = Path(ledger.folder)
        script = Script(title, words, log, ledger.settings, where, ledger.command, resumes=True, alone=not tasks)
        return Batch(name, level, tuple(tasks), script.text())

    batches = []
    levels = levels_of(cells)
    for level, group in enumerate(levels):
        wanted = [cell for cell in group if not progress.is_finished(cell) and cell.name not in live]
        for start in range(0, len(wanted), largest):
            part = f"level{level}" + (f"_{start // largest}" if len(wanted) > largest else "")
            batches.append(batch(part, level, wanted[start : start + largest]))
    if batches or not (REPORT in live or report_is_written(folder, progress)):
        batches.append(batch(REPORT, len(levels), ()))
    finished = sum(progress.is_finished(cell) for cell in cells)
    return Queue(tuple(batches), finished, live, tuple(cells))


def submit_jobs(folder: JobsFolder, name: str, scheduler_of: SchedulerOf, largest: int) -> Queue:
    """Queue what is neither finished nor queued.

    Args:
        folder: That of a study that was prepared, see :func:`lightning_mm.cluster.graph.prepare.prepare`.
        name: The name of the scheduler that runs the jobs.
        scheduler_of: Makes schedulers by name, those of earlier submissions too.
        largest: How many tasks an array may have.

    Raises:
        LightningMMError: If a script is not accepted; jobs that were queued before stay queued, and submitting again
            queues the others.
    """
    scheduler = scheduler_of(name)
    with lock(folder.path / LOCK, SUBMITS):
        ledger = folder.read_ledger()
        study = thaw(folder.path, folder.study)
        queue = plan_jobs(study, ledger, known_jobs(folder, ledger, scheduler_of), largest)
        if not queue.batches:
            return queue
        for batch in queue.batches:
            folder.write_tasks(batch.name, [cell.name for cell in batch.cells])
            write_atomically(folder.path / f"{batch.name}.sh", batch.script)
        scheduler.check(folder.path / f"{queue.batches[0].name}.sh")  # all ask for the same
        submission = Submission(scheduler=name, time=time.strftime("%Y-%m-%d %H:%M:%S"))
        ledger.submissions.append(submission)
        for batch, after in _with_what_comes_before(queue, submission):
            script = folder.path / f"{batch.name}.sh"
            try:
                job = scheduler.submit(script, after, _array(batch, ledger.settings.array_limit))
            except LightningMMError as error:
                queued = len(submission.jobs)
                more = f"; {queued} of {len(queue.batches)} jobs are queued, `lightning-mm resubmit` queues the others"
                raise LightningMMError(f"{error}{more if queued else ''}") from error
            submission.jobs.append(SubmittedJob(id=job, tasks=batch.name if batch.cells else None))
            folder.write_ledger(ledger)  # at once: a job that is queued must be known
        return queue


def _with_what_comes_before(queue: Queue, submission: Submission) -> Iterator[tuple[Batch, list[str]]]:
    """Each job that is to be queued, and the jobs that it waits for: those of the level before, queued by then."""
    ids: dict[int, list[str]] = {}
    for batch in queue.batches:
        earlier = [level for level in ids if level < batch.level]
        after = ids[max(earlier)] if earlier else []
        yield batch, list(dict.fromkeys([*after, *_live_needs(batch, queue)]))
        ids.setdefault(batch.level, []).append(submission.jobs[-1].id)


def _array(batch: Batch, limit: int | None) -> str | None:
    if not batch.cells:
        return None
    return f"0-{len(batch.cells) - 1}" + (f"%{limit}" if limit else "")


def _live_needs(batch: Batch, queue: Queue) -> list[str]:
    """The jobs of earlier submissions that a batch waits for: those of levels before its own."""
    depth = {cell.name: level for level, group in enumerate(levels_of(queue.cells)) for cell in group}
    found = (job.id for name, job in queue.live.items() if name != REPORT and depth.get(name, 0) < batch.level)
    return list(dict.fromkeys(one.partition("_")[0] for one in found))
