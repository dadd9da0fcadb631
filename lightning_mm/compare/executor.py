"""Executors: where the steps of a study are performed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import active_children, get_context
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar, runtime_checkable

from lightning_mm.compare.plan import Step
from lightning_mm.compare.step_runner import Facts
from lightning_mm.errors import LightningMMError, Stopped
from lightning_mm.signals import WARNING

Result = TypeVar("Result")
Perform = Callable[[Step], Facts]
"""Performs a step and returns its facts; a function of a module, so that it can be sent to another process."""
STOPPED = 128 + signal.SIGTERM
"""Exit code of a worker that was asked to end."""
PATIENCE = 20.0
"""Seconds that workers of a stopped study have to end, with the processes that they have started."""
SHOWN = 6
"""Last lines of a log that an error shows."""


class StepError(LightningMMError):
    """A step of a study failed; the message names its log."""

    def __init__(self, step: Step, error: BaseException) -> None:
        log = step.folder / f"{step.stage}.log"
        if isinstance(error, LightningMMError):
            why = str(error)
        elif isinstance(error, BrokenProcessPool):
            why = "its process was killed (out of memory?)"
        elif isinstance(error, SystemExit) and error.code == STOPPED:
            why = "its process was stopped (SIGTERM)"
        else:
            why = f"{type(error).__name__}: {error}"
            if log.is_file():
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
                why += "".join(f"\n    {line}" for line in lines)
        super().__init__(f"{step.name} failed: {why}\n  log: {log}")


@runtime_checkable
class Executor(Protocol):
    """Performs steps somewhere: in worker processes, in this process, on a cluster."""

    def run(self, steps: Sequence[Step]) -> Iterator[tuple[Step, Facts]]:
        """Perform each step after those that it needs, and yield each with its facts when it is finished.

        Args:
            steps: What they need is finished, or stands before them.

        Raises:
            StepError: If a step fails; steps that run at the same time are finished first, no other is started.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """Performs one step after the other in this process, for tests."""

    perform: Perform

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function and return its result."""
        return function(*arguments)

    def run(self, steps: Sequence[Step]) -> Iterator[tuple[Step, Facts]]:
        for step in steps:
            try:
                facts = self.perform(step)
            except (Exception, SystemExit) as error:
                raise StepError(step, error) from error
            yield step, facts


@dataclass(frozen=True)
class Processes:
    """Performs steps in worker processes, see :func:`processes`."""

    perform: Perform
    jobs: int
    pool: ProcessPoolExecutor

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in a worker and return its result."""
        with _without_interrupts():
            future = self.pool.submit(function, *arguments)
        return future.result()

    def run(self, steps: Sequence[Step]) -> Iterator[tuple[Step, Facts]]:
        unfinished = {step.marker: step for step in steps}
        running: dict[Future[Facts], Step] = {}
        while unfinished:
            started = {step.marker for step in running.values()}
            ready = (
                step for marker, step in unfinished.items() if marker not in started and _may_start(step, unfinished)
            )
            for step in islice(ready, self.jobs - len(running)):
                with _without_interrupts():
                    running[self.pool.submit(self.perform, step)] = step
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                try:
                    facts = future.result()
                except (Exception, SystemExit) as error:
                    wait(running)
                    raise StepError(step, error) from error
                del unfinished[step.marker]
                yield step, facts


def _may_start(step: Step, unfinished: Container[Path]) -> bool:
    return not any(need.marker in unfinished for need in step.needs)


@contextmanager
def processes(perform: Perform, jobs: int) -> Iterator[Processes]:
    """An executor whose worker processes share the cores and end with this process.

    Args:
        perform: Performs a step in a worker.
        jobs: Worker processes.
    """
    threads = str(threads_of(jobs))
    before = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, threads))
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=begin_worker, initargs=(os.getpid(),))
    try:
        yield Processes(perform, jobs, pool)
    except (KeyboardInterrupt, SystemExit, Stopped):
        workers = list((pool._processes or {}).values())
        for process in workers:
            process.terminate()
        end = time.monotonic() + PATIENCE
        for process in workers:
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def threads_of(jobs: int) -> int:
    """Threads of one of several processes that run at the same time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def begin_worker(parent: int) -> None:
    """Prepare a worker process: the study alone tells it to end."""
    signal.signal(signal.SIGTERM, _end_worker)
    if WARNING > 0:  # a queue sends it to all processes of a job
        signal.signal(WARNING, signal.SIG_IGN)
    die_with_parent(parent)


def _end_worker(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise SystemExit(STOPPED)  # the blocks that it leaves end loaders' processes and remove temporary files


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start workers that Ctrl-C does not reach: the terminal sends it to all processes, and the study ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(parent: int, interval: float = 0.5) -> None:
    """End this process soon after the one that started it: a killed study leaves no worker still writing.

    Args:
        parent: Its process number; passed, not asked for here, as it may have been killed already.
        interval: Seconds between two looks.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        for child in active_children():
            child.kill()  # a loader's process that is still starting would not see that its parent ended
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
