"""What the package asks of a scheduler, and what a scheduler says of a job.

Slurm (:mod:`lightning_mm.cluster.slurm`) and this machine (:mod:`lightning_mm.cluster.local`) are two of them; PBS or
LSF would be a third file with the same four methods.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

State = Literal["queued", "running", "finished", "failed", "cancelled", "unknown"]

SIGNAL_OF_MEMORY = 125
"""No signal, but what Slurm shows in its place where the memory ran out."""
NOT_READY = 3
"""Exit code of a cell of a study that could not run because what it needs is not finished."""


@dataclass(frozen=True)
class Job:
    """What a scheduler says of one job or array task.

    Args:
        id: Its id, ``"123"``, or ``"123_4"`` for a task of an array.
        state: Its state in our words.
        word: The scheduler's own word, such as ``NODE_FAIL``; empty if it does not know the job.
        exit_code: Exit code of the script, once it has ended; 128 plus the number of the signal that ended it.
        restarts: How often it was requeued, where the scheduler says so.
        reason: Why it waits, in the scheduler's word; empty if it does not wait.
        earlier: How its earlier starts ended, such as ``NODE_FAIL``, where the scheduler keeps that.
        signal: The number of the signal that ended it, where the scheduler says so.
    """

    id: str
    state: State
    word: str = ""
    exit_code: int | None = None
    restarts: int | None = None
    reason: str = ""
    earlier: tuple[str, ...] = ()
    signal: int | None = None

    @property
    def ended_with(self) -> str:
        """The exit code or the signal that it ended with, in words; empty if it has not ended, or ended well.

        Example:
            >>> Job("7", "failed", "OUT_OF_MEMORY", 253, signal=125).ended_with
            'signal 125 (out of memory)'
            >>> Job("7", "failed", "FAILED", 3).ended_with
            'exit code 3'
        """
        if self.signal is not None:
            return f"signal {self.signal} ({_signal_name(self.signal)})"
        return f"exit code {self.exit_code}" if self.exit_code else ""


def _signal_name(number: int) -> str:
    if number == SIGNAL_OF_MEMORY:
        return "out of memory"
    try:
        return signal.Signals(number).name
    except ValueError:
        return "of the scheduler"


@runtime_checkable
class Scheduler(Protocol):
    """Runs scripts somewhere, later."""

    def check(self, script: Path) -> None:
        """Ask whether the script would be accepted; nothing is queued.

        Raises:
            LightningMMError: If not, with the scheduler's words.
        """
        ...

    def submit(self, script: Path, after: Sequence[str] = (), array: str | None = None) -> str:
        """Queue a script.

        Args:
            script: A bash script, whose ``#SBATCH`` lines name the resources.
            after: Jobs that must have ended before, however they ended.
            array: Run it once per number, such as ``0-5%2``: at most two of six at once.

        Returns:
            The id of the job.

        Raises:
            LightningMMError: If it is not accepted.
        """
        ...

    def states(self, ids: Sequence[str]) -> dict[str, Job]:
        """The state of jobs.

        Args:
            ids: Jobs, array tasks, or arrays, which stand for all of their tasks.

        Returns:
            Id to job; the tasks of an array one by one. A job that the scheduler no longer knows is ``unknown``.
        """
        ...

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs, running or not; those that have ended already stay as they are.

        Raises:
            LightningMMError: If the scheduler refuses.
        """
        ...
