"""Freezes a study in its folder before its jobs are queued."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning_mm.cluster.graph.cells import REPORT, cells_of
from lightning_mm.cluster.graph.folder import SUBMITS, JobsFolder
from lightning_mm.cluster.graph.frozen import freeze, thaw
from lightning_mm.cluster.graph.jobs import LIVE, SchedulerOf, known_jobs
from lightning_mm.cluster.scheduler import Job
from lightning_mm.compare.plan import Plan
from lightning_mm.compare.runner import check_nothing_is_lost
from lightning_mm.compare.step_runner import LOCK
from lightning_mm.compare.study import Study
from lightning_mm.errors import LightningMMError
from lightning_mm.files import lock
from lightning_mm.schemas.job_settings import JobSettings
from lightning_mm.schemas.jobs import Ledger


def prepare(
    study: Study, command: str, settings: JobSettings, scheduler_of: SchedulerOf, again: bool = False
) -> JobsFolder:
    """Freeze a study in its folder, so that its jobs, `status` and `resubmit` find it.

    Args:
        study: With the options of the command line applied.
        command: How it is submitted, for the report.
        settings: What its jobs ask for.
        scheduler_of: Makes the schedulers of earlier submissions, by name.
        again: Whether finished trainings whose settings have changed may be deleted and run again.

    Raises:
        LightningMMError: If finished trainings would be deleted, or jobs of the study are queued with other settings.
    """
    folder = JobsFolder(study.out.absolute())
    with lock(folder.path / LOCK, SUBMITS):
        if not again:
            check_nothing_is_lost(Plan(study))
        ledger = Ledger(folder=str(Path.cwd()))
        if folder.is_there:
            ledger.submissions = folder.read_ledger().submissions
            _check_nothing_changes(folder, study, known_jobs(folder, ledger, scheduler_of))
        ledger.command, ledger.settings = command, settings
        freeze(study, folder.path)
        frozen = _keys(thaw(folder.path, folder.study))
        if frozen != _keys(study):
            raise LightningMMError(
                f"{study.name}: the study cannot be written down as it is, with all options applied; write them into "
                "its file instead"
            )
        folder.write_ledger(ledger)
    return folder


def _check_nothing_changes(folder: JobsFolder, study: Study, jobs: Mapping[str, Job]) -> None:
    """Refuse other settings for cells that are queued or running."""
    before, now = _keys(thaw(folder.path, folder.study)), _keys(study)
    for name, job in jobs.items():
        if job.state in LIVE and name != REPORT and before.get(name) != now.get(name):
            raise LightningMMError(
                f"{name} is {job.state} (job {job.id}) with other settings than the study asks for now; cancel its "
                f"jobs first: lightning-mm cancel {folder.study}"
            )


def _keys(study: Study) -> dict[str, list[str]]:
    return {cell.name: [step.key for step in cell.steps] for cell in cells_of(Plan(study))}
