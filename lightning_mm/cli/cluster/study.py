"""``lightning-mm submit slurm -- compare ...``: a study as jobs; what `submit` and `resubmit` share."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_mm.cluster.graph.folder import JobsFolder
    from lightning_mm.cluster.graph.submit import Queue
    from lightning_mm.compare.study import Study
    from lightning_mm.schemas.job_settings import JobSettings

LISTED = 3
"""Cells of a job that are named when it is queued."""


def submit_compare(
    words: Sequence[str], scheduler: str, settings: JobSettings, command: str, dry_run: bool = False
) -> None:
    """Submit a study, as ``compare`` would run it: what is neither finished nor queued.

    Args:
        words: The words after ``compare``.
        scheduler: The name of the scheduler.
        settings: What each of its jobs asks for.
        command: How the user submitted it.
        dry_run: Whether to show jobs and scripts and queue nothing.

    Raises:
        LightningMMError: If the study is wrong, or a job is not accepted; nothing is queued then.
    """
    from lightning_mm.cli.compare import check_places, look_in_worker, narrowed, parse
    from lightning_mm.cluster.graph.prepare import prepare
    from lightning_mm.cluster.schedulers import scheduler_of
    from lightning_mm.compare.look import configs_to_look_at
    from lightning_mm.compare.plan import Plan
    from lightning_mm.compare.step_runner import finished
    from lightning_mm.compare.study import read_study

    options = parse(words)
    study = _with_ranks(narrowed(read_study(options.config), options), settings)
    if dry_run or options.dry_run:
        show(study, settings, command)
        return
    check_places(study)
    if any(finished(step) is None for step in Plan(study).steps({})):
        look_in_worker(study, configs_to_look_at(study))
    queue(prepare(study, command, settings, scheduler_of, options.again), scheduler)


def show(study: Study, settings: JobSettings, command: str) -> None:
    """Print the jobs that would be queued, with the script of the first; nothing is written or queued."""
    from pathlib import Path

    from lightning_mm.cluster.graph.folder import JobsFolder
    from lightning_mm.cluster.graph.jobs import ask_jobs
    from lightning_mm.cluster.graph.submit import plan_jobs
    from lightning_mm.cluster.schedulers import LARGEST, scheduler_of
    from lightning_mm.schemas.jobs import Ledger

    folder = JobsFolder(study.out.absolute())
    ledger = Ledger(folder=str(Path.cwd()), command=command, settings=settings)
    if folder.is_there:
        ledger.submissions = folder.read_ledger().submissions
    jobs = ask_jobs(folder, ledger, scheduler_of)
    for name, why in jobs.silent.items():
        print(f"lightning-mm: {name} was not asked what is queued: {why}", file=sys.stderr)
    planned = plan_jobs(study, ledger, jobs.latest, LARGEST)
    for batch in planned.batches[:1]:
        print(f"# {folder.path / batch.name}.sh; the scripts of the other jobs differ in name, log and command")
        print(batch.script)
    print("\n".join(_lines(planned, {})))


def queue(folder: JobsFolder, scheduler: str) -> None:
    """Queue what is open, and say how to follow it."""
    from lightning_mm.cluster.graph.submit import submit_jobs
    from lightning_mm.cluster.schedulers import largest_array, scheduler_of

    limit = folder.read_ledger().settings.jobs
    queued = submit_jobs(folder, scheduler, lambda name: scheduler_of(name, limit), largest_array(scheduler))
    ids = [job.id for job in folder.read_ledger().submissions[-1].jobs] if queued.batches else []
    print("\n".join(_lines(queued, dict(zip((batch.name for batch in queued.batches), ids)))))
    if queued.batches:
        print(f"scripts and logs: {folder.path / queued.batches[0].name.partition('/')[0]}")
    print(f"follow it:        lightning-mm status {folder.study}")


def _lines(queued: Queue, ids: Mapping[str, str]) -> list[str]:
    """One line per job, and one of what is not queued."""
    lines = []
    for batch in queued.batches:
        job = f"job {ids[batch.name]}" if batch.name in ids else "a job"
        names = [cell.name for cell in batch.cells]
        more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
        count = "1 cell" if len(names) == 1 else f"{len(names)} cells"
        what = f"{count}: {', '.join(names[:LISTED])}{more}" if names else "tables, report and record"
        lines.append(f"{job:9} {batch.name.partition('/')[2]:8} {what}")
    live = len([name for name in queued.live if name in {cell.name for cell in queued.cells}])
    lines.append(f"{len(queued.cells)} cells; {queued.finished} are finished, {live} are queued or running already")
    return lines


def _with_ranks(study: Study, settings: JobSettings) -> Study:
    """The study with trainers of as many ranks as a cell gets, where that is more than one."""
    from lightning_mm.cluster.script import trainer_settings

    if settings.ranks == 1:
        return study
    return replace(study, settings={**trainer_settings(settings), **study.settings})
