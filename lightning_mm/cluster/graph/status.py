"""What became of the cells of a study: markers are the truth, schedulers say the rest.

Imports neither Lightning nor torch: it answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lightning_mm.cluster.graph.cells import REPORT, Cell, Progress, cells_of, progress_of
from lightning_mm.cluster.graph.folder import JobsFolder
from lightning_mm.cluster.graph.frozen import thaw
from lightning_mm.cluster.graph.jobs import LIVE, Jobs, SchedulerOf, ask_jobs
from lightning_mm.cluster.graph.report import report_is_written
from lightning_mm.cluster.scheduler import Job
from lightning_mm.compare.executor import SHOWN
from lightning_mm.compare.plan import Plan, Step
from lightning_mm.compare.step_runner import LOCK
from lightning_mm.compare.study import Study, read_study
from lightning_mm.files import is_locked
from lightning_mm.schemas.jobs import CellState

State = Literal["finished", "running", "queued", "failed", "not_run", "cancelled", "open"]
"""``not_run``: what it needs has failed or was not run; ``open``: not submitted."""
WORDS: dict[State, str] = {
    "finished": "is finished", "running": "is running", "queued": "is queued", "failed": "failed",
    "not_run": "was not run", "cancelled": "was cancelled", "open": "was not submitted",
}  # fmt: skip
BAD: tuple[State, ...] = ("failed", "not_run", "cancelled")
"""States of a cell that keep those that need it from being run."""
READ = 65536
"""Bytes at the end of a log that are looked at."""


@dataclass(frozen=True)
class CellStatus:
    """One cell.

    Args:
        name: Its name.
        state: What became of it.
        stages: Stage to whether it is finished.
        reason: Why it failed, was not run, waits, or was skipped.
        step: The stage that failed or runs.
        job: Its latest job.
        word: The scheduler's word for that.
        restarts: How often it was started again.
        log: The log of that stage, or what the job printed.
        tail: Its last lines, if the cell failed.
    """

    name: str
    state: State
    stages: dict[str, bool] = field(default_factory=dict)
    reason: str = ""
    step: str = ""
    job: str = ""
    word: str = ""
    restarts: int = 0
    log: str = ""
    tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyStatus:
    """A study.

    Args:
        name: Its name.
        folder: The folder of its runs.
        cells: All cells; the report is the last.
        choices: Tuned method to the chosen value with the figures it was chosen by.
        results: The folder of its tables.
        silent: Scheduler to why it could not be asked.
    """

    name: str
    folder: Path
    cells: tuple[CellStatus, ...]
    choices: dict[str, Any]
    results: Path
    silent: dict[str, str]

    def count(self, *states: State) -> int:
        """How many cells are in these states; the report is no cell."""
        return sum(cell.state in states and cell.name != REPORT for cell in self.cells)


def open_study(place: Path) -> Study:
    """The study at a folder or a YAML file, as it was submitted; a file's as it is written if it was not.

    Raises:
        DataNotFoundError: If there is none.
    """
    study = read_study(place) if place.is_file() else None
    folder = JobsFolder((study.out if study is not None else place).absolute())
    if study is not None and not folder.is_there:
        return replace(study, out=folder.study)
    folder.read_ledger()
    return thaw(folder.path, folder.study)


def status_of(study: Study, scheduler_of: SchedulerOf) -> StudyStatus:
    """Look at every cell of a study.

    Args:
        study: The study, see :func:`open_study`.
        scheduler_of: Makes the scheduler of a name.
    """
    folder = JobsFolder(study.out.absolute())
    plan = Plan(study)
    cells = cells_of(plan)
    progress = progress_of(plan, cells)
    jobs = ask_jobs(folder, folder.read_ledger(), scheduler_of) if folder.is_there else Jobs()
    found: dict[str, CellStatus] = {}
    for cell in cells:
        found[cell.name] = _status(folder, cell, progress, jobs, found)
    if folder.is_there:
        found[REPORT] = _report(folder, progress, jobs, list(found.values()))
    return StudyStatus(study.name, study.out, tuple(found.values()), dict(progress.choices), study.results, jobs.silent)


def _status(
    folder: JobsFolder, cell: Cell, progress: Progress, jobs: Jobs, before: Mapping[str, CellStatus]
) -> CellStatus:
    job, note = jobs.latest.get(cell.name), folder.read_cell(cell.name)
    if note is not None and job is not None and note.job not in ("", job.id):
        note = None  # of an earlier job
    steps = progress.steps[cell.name]
    status = CellStatus(
        cell.name,
        "open",
        {step.stage: step.marker in progress.facts for step in steps or ()},
        step="" if note is None else note.step,
        job="" if job is None else job.id,
        word="" if job is None else job.word,
        restarts=max((job.restarts if job is not None else 0) or 0, note.restarts if note is not None else 0),
    )
    if progress.is_finished(cell):
        return replace(status, state="finished", step="", reason=progress.skipped(cell))
    if job is not None and job.state in LIVE:
        return replace(status, state="queued" if job.state == "queued" else "running", reason=job.reason)
    if cell.method in progress.hopeless:
        return replace(status, state="failed", reason=progress.hopeless[str(cell.method)])
    state, reason = _ended(job, note, any(is_locked(step.folder / LOCK) for step in steps or ()))
    blocked = _blocked(cell, steps, progress, before, folder)
    if blocked and state in ("open", "not_run"):
        return replace(status, state="not_run", reason=blocked, step="")
    if state == "not_run":
        state, reason = "open", f"it was not run: {reason}; that has changed since"
    if state != "failed":
        return replace(status, state=state, reason=reason)
    logs = [Path(note.log)] if note is not None and note.log else []
    log = next((path for path in (*logs, jobs.logs.get(cell.name)) if path is not None and path.is_file()), None)
    return replace(status, state=state, reason=reason, log=str(log or ""), tail=last_lines(log) if log else ())


def _ended(job: Job | None, note: CellState | None, locked: bool) -> tuple[State, str]:
    """State and reason of an unfinished cell whose job is neither queued nor running, as far as is known."""
    said = "" if job is None else _said(job)
    if note is not None and note.state == "failed":
        return "failed", note.reason
    if note is not None and note.state == "not_run":
        return "not_run", note.reason
    if job is not None and job.state == "cancelled":
        return "cancelled", ""
    if job is not None and job.state == "failed":
        if note is None:
            return "failed", f"its job ended before it began: {said}"
        return "failed", f"{note.reason}; {said}" if note.state == "stopped" else f"its job ended: {said}"
    if locked:
        return "running", "" if job is None else "its folder is in use"
    if note is not None and note.state == "stopped":
        return "failed", note.reason
    if note is not None and note.state == "running":
        return "failed", f"it ended without a word (killed? out of memory?) after {note.time} on {note.host}"
    if job is not None:
        gone = "ended" if job.state == "finished" else "is no longer known to the scheduler"
        return "open", f"job {job.id} {gone}, and the cell is not finished"
    return "open", ""


def _said(job: Job) -> str:
    code = job.ended_with or ("exit code 0" if job.exit_code == 0 else "")
    return ", ".join(part for part in (job.word, code) if part) or "failed"


def _blocked(
    cell: Cell,
    steps: Sequence[Step] | None,
    progress: Progress,
    before: Mapping[str, CellStatus],
    folder: JobsFolder,
) -> str:
    """Which cell keeps this one from being run; empty if none does."""
    if steps is None:
        missing = list(cell.needs)
    else:
        own = {step.marker for step in steps}
        needs = [need for step in steps for need in step.needs if need.marker not in progress.facts]
        missing = [str(need.folder.relative_to(folder.study)) for need in needs if need.marker not in own]
    for name in missing:
        state = before[name].state if name in before else "open"
        if state in BAD:
            return f"needs {name}, which {WORDS[state]}"
    return ""


def _report(folder: JobsFolder, progress: Progress, jobs: Jobs, cells: Sequence[CellStatus]) -> CellStatus:
    job, note = jobs.latest.get(REPORT), folder.read_cell(REPORT)
    status = CellStatus(REPORT, "open", job="" if job is None else job.id, word="" if job is None else job.word)
    if report_is_written(folder, progress):
        return replace(status, state="finished")
    if job is not None and job.state in LIVE:
        return replace(status, state="queued" if job.state == "queued" else "running", reason=job.reason)
    unfinished = [cell.name for cell in cells if cell.state != "finished"]
    if unfinished:
        more = f" and {len(unfinished) - 1} more" if len(unfinished) > 1 else ""
        return replace(status, state="not_run", reason=f"needs {unfinished[0]}{more}")
    if note is not None and job is not None and note.job not in ("", job.id):
        note = None
    state, reason = _ended(job, note, False)
    log = jobs.logs.get(REPORT)
    there = state == "failed" and log is not None and log.is_file()
    tail = last_lines(log) if there and log is not None else ()
    return replace(status, state=state, reason=reason, log=str(log) if there else "", tail=tail)


def last_lines(path: Path, count: int = SHOWN) -> tuple[str, ...]:
    """The last lines of a log that are not empty, as they stood on a terminal."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - READ))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rstrip().rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return tuple(line for line in lines if line)[-count:]
