"""The keeper of a local job: ``python -m lightning_mm.cluster.local.keeper FOLDER LOCK``; :mod:`.queue` starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lightning_mm.cluster.local.folder import ENDED, JobFolder, jobs_in, numbers
from lightning_mm.cluster.local.gpus import VISIBLE, gpus_for
from lightning_mm.cluster.script import RESTARTS, TASK
from lightning_mm.compare.executor import threads_of
from lightning_mm.errors import LightningMMError
from lightning_mm.files import lock
from lightning_mm.schemas.local_job import LocalTaskState
from lightning_mm.signals import REQUEUE

INTERVAL = 0.25
"""Seconds between two looks at the files."""
PATIENCE = 90.0
"""Seconds that a cancelled task has to save and end."""
WAITS_FOR_JOBS, WAITS_FOR_TURN = "Dependency", "Resources"


@dataclass
class Running:
    """A task that runs."""

    process: subprocess.Popen[bytes]
    cancelled: float | None = None
    """When it was asked to end."""


@dataclass
class Keeper:
    """Runs the tasks of one job.

    Args:
        job: Its folder.
        held: File descriptor of the lock that says that the job lives.
    """

    job: JobFolder
    held: int
    running: dict[int | None, Running] = field(default_factory=dict)
    states: dict[int | None, LocalTaskState] = field(default_factory=dict)

    def run(self) -> None:
        """Run all tasks, until each has ended."""
        self.job_state = self.job.read()
        for task in numbers(self.job_state):
            self._note(task, LocalTaskState(reason=WAITS_FOR_JOBS))
        while any(state.state not in ENDED for state in self.states.values()):
            self._cancel()
            self._collect()
            self._start()
            time.sleep(INTERVAL)

    def _note(self, task: int | None, state: LocalTaskState) -> None:
        if self.states.get(task) != state:
            self.states[task] = state
            self.job.write_task(task, state)

    def _cancel(self) -> None:
        for task, state in list(self.states.items()):
            if state.state in ENDED or not self.job.is_to_cancel(task):
                continue
            running = self.running.get(task)
            if running is None:
                ended = {"state": "cancelled", "word": "CANCELLED", "reason": ""}
                self._note(task, state.model_copy(update=ended))
            elif running.cancelled is None:
                running.cancelled = time.monotonic()
                running.process.terminate()  # the script sends it on to its command
            elif time.monotonic() - running.cancelled > PATIENCE:
                _kill(running.process)

    def _collect(self) -> None:
        for task, running in list(self.running.items()):
            code = running.process.poll()
            if code is None:
                continue
            del self.running[task]
            if code:
                _kill(running.process)  # what it has started and left behind
            code, state = (128 - code if code < 0 else code), self.states[task]
            if running.cancelled is not None:
                ended = {"state": "cancelled", "word": "CANCELLED", "exit_code": code}
            elif code == REQUEUE:
                ended = {"state": "queued", "word": "REQUEUED", "restarts": state.restarts + 1}
            elif code:
                ended = {"state": "failed", "word": "FAILED", "exit_code": code}
            else:
                ended = {"state": "finished", "word": "COMPLETED", "exit_code": 0}
            self._note(task, state.model_copy(update=ended))

    def _start(self) -> None:
        waiting = [task for task, state in self.states.items() if state.state == "queued"]
        if not waiting:
            return
        if not all(_has_ended(self.job.path.parent, one) for one in self.job_state.after):
            return
        for task in waiting:
            self._note(task, self.states[task].model_copy(update={"reason": WAITS_FOR_TURN}))
        for task in waiting:
            if self.job_state.at_once is not None and len(self.running) >= self.job_state.at_once:
                return
            with lock(self.job.path.parent / ".lock", wait=True):
                gpus = self._gpus() if self._is_my_turn() else None
                if gpus is None:
                    return
                started = {"state": "running", "word": "RUNNING", "reason": "", "gpus": gpus}
                self._note(task, self.states[task].model_copy(update=started))
            self.running[task] = Running(self._run_script(task))

    def _is_my_turn(self) -> bool:
        """Whether fewer tasks run than may, and no job that was submitted before waits for its turn."""
        running = 0
        for other in jobs_in(self.job.path.parent):
            if not other.lives():
                continue
            try:
                states = other.states().values()
            except LightningMMError:
                continue  # somebody has damaged its files
            running += sum(one.state == "running" for one in states)
            if int(other.id) < int(self.job.id) and any(one.reason == WAITS_FOR_TURN for one in states):
                return False
        return running < self.job_state.jobs

    def _gpus(self) -> list[str] | None:
        """The GPUs of a task that starts now: none if none are known, ``None`` if it has to wait for some."""
        visible = self.job_state.visible
        if not visible:
            return []
        used: list[str] = []
        for other in jobs_in(self.job.path.parent):
            if not other.lives():
                continue
            with suppress(LightningMMError):  # somebody has damaged its files
                for task in numbers(other.read()):
                    state = other.read_task(task)
                    used += state.gpus if state.state == "running" else []
        return gpus_for(visible, used, self.job_state.gpus, self.job_state.jobs)

    def _run_script(self, task: int | None) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(threads_of(self.job_state.jobs)))
        environment[RESTARTS] = str(self.states[task].restarts)
        if self.states[task].gpus:
            environment[VISIBLE] = ",".join(self.states[task].gpus)
        if task is not None:
            environment[TASK] = str(task)
        with self.job.log_of(task).open("ab") as output:
            return subprocess.Popen(
                ["bash", str(self.job.script)], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment, start_new_session=True, pass_fds=(self.held,),
            )  # fmt: skip


def _has_ended(queue: Path, job: str) -> bool:
    number, _, task = job.partition("_")
    folder = JobFolder(queue / number)
    if not folder.path.is_dir():
        return True
    states = folder.states()
    return all(one.state in ENDED for key, one in states.items() if not task or key == job)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a script and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def main(folder: str, held: str) -> None:
    """Keep one job, in a process that neither the caller nor its terminal knows."""
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.set_inheritable(int(held), False)
    Keeper(JobFolder(Path(folder)), int(held)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
