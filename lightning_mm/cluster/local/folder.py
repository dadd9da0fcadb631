"""The files of the queue of this machine: a folder per job, with what was submitted and what became of its tasks.

::

    12/job.json, script.sh     what was submitted
    12/task.json               what became of it; task-3.json for a task of an array
    12/alive                   locked while the job's keeper or one of its tasks runs
    12/cancel, cancel-3        somebody asked to end the job, or a task
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lightning_mm.cluster.scheduler import Job
from lightning_mm.errors import LightningMMError
from lightning_mm.files import make_folder, write_atomically
from lightning_mm.json_files import read_json
from lightning_mm.schemas.base import S, Schema, check
from lightning_mm.schemas.local_job import LocalJobState, LocalTaskState

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CAN_RUN = fcntl is not None and shutil.which("bash") is not None
"""Whether this machine can keep a queue: a Unix with bash."""
ENDED = ("finished", "failed", "cancelled")
"""States that do not change any more."""
KEPT = 60 * 24 * 3600.0
"""Seconds for which a job is remembered."""


def queue_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where jobs are kept: ``~/.local/state/lightning_mm/jobs``, or below ``XDG_STATE_HOME``."""
    home = environment.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "lightning_mm" / "jobs"


@dataclass(frozen=True)
class JobFolder:
    """One job.

    Args:
        path: Its folder, named after its id.
    """

    path: Path

    @property
    def id(self) -> str:
        """Its id."""
        return self.path.name

    @property
    def script(self) -> Path:
        """The copy of the script that runs."""
        return self.path / "script.sh"

    @staticmethod
    def new(queue: Path) -> JobFolder:
        """Make the folder of the next id."""
        make_folder(queue)
        while True:
            path = queue / str(1 + max((int(one.id) for one in jobs_in(queue)), default=0))
            try:
                path.mkdir()
            except FileExistsError:  # another process was faster
                continue
            return JobFolder(path)

    def read(self) -> LocalJobState:
        """Read what was submitted."""
        return _read(LocalJobState, self.path / "job.json")

    def read_task(self, task: int | None) -> LocalTaskState:
        """Read what became of a task; one that has no file yet waits."""
        path = self._of_task("task", task, ".json")
        return _read(LocalTaskState, path) if path.is_file() else LocalTaskState()

    def write(self, state: LocalJobState) -> None:
        """Write what was submitted."""
        _write(self.path / "job.json", state)

    def write_task(self, task: int | None, state: LocalTaskState) -> None:
        """Write what became of a task."""
        _write(self._of_task("task", task, ".json"), state)

    def ask_to_cancel(self, task: int | None) -> None:
        """Ask the keeper of the job to end a task; without a number the whole job."""
        self._of_task("cancel", task).touch()

    def is_to_cancel(self, task: int | None) -> bool:
        """Whether somebody has asked so."""
        return (self.path / "cancel").exists() or self._of_task("cancel", task).exists()

    def hold(self) -> IO[str]:
        """Lock the job as living; whoever has the open file holds it, and so do processes that inherit it."""
        file = (self.path / "alive").open("a", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def lives(self) -> bool:
        """Whether its keeper or one of its tasks still runs."""
        path = self.path / "alive"
        if not path.is_file():
            return False
        with path.open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask do not see each other
            except BlockingIOError:
                return True
        return False

    def states(self) -> dict[str, Job]:
        """What became of all of its tasks; ``LOST`` if the machine or the keeper of the job ended before they did."""
        lives = self.lives()  # before the files are read: a task that ends meanwhile has written its state
        found = {}
        for task in numbers(self.read()):
            state = self.read_task(task)
            if state.state not in ENDED and not lives:
                state = LocalTaskState(state="failed", word="LOST", restarts=state.restarts)
            key = self.id if task is None else f"{self.id}_{task}"
            found[key] = Job(key, state.state, state.word, state.exit_code, state.restarts, state.reason)
        return found

    def log_of(self, task: int | None) -> Path:
        """The file for what a task prints."""
        number = "" if task is None else str(task)
        path = self.read().log.replace("%j", self.id).replace("%A", self.id).replace("%a", number)
        return Path(path)

    def _of_task(self, name: str, task: int | None, end: str = "") -> Path:
        return self.path / (f"{name}{end}" if task is None else f"{name}-{task}{end}")


def numbers(job: LocalJobState) -> list[int | None]:
    """The numbers of the tasks of a job; ``None`` for a job that is no array."""
    return [None] if job.tasks is None else list(job.tasks)


def forget_old(queue: Path, seconds: float = KEPT) -> None:
    """Remove the folders of jobs that ended long ago."""
    for job in jobs_in(queue)[:-1]:  # the last one holds the highest number
        if time.time() - job.path.stat().st_mtime > seconds and not job.lives():
            shutil.rmtree(job.path, ignore_errors=True)


def jobs_in(queue: Path) -> list[JobFolder]:
    """All jobs of a queue, by id."""
    if not queue.is_dir():
        return []
    return [JobFolder(path) for path in sorted(queue.iterdir(), key=_number) if _number(path)]


def _number(path: Path) -> int:
    return int(path.name) if path.name.isascii() and path.name.isdigit() else 0


def _read(schema: type[S], path: Path) -> S:
    way_out = "remove its folder; the files of the run itself are elsewhere"
    try:
        return check(schema, read_json(path, way_out), path, way_out)
    except FileNotFoundError:
        raise LightningMMError(f"{path} was not found: the job was not submitted whole; {way_out}") from None


def _write(path: Path, content: Schema) -> None:
    write_atomically(path, content.model_dump_json(indent=1) + "\n")
