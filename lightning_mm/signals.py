"""Signals that ask a process to stop: what they mean, and who listens to them.

SIGUSR2 is the warning of a scheduler that the time is nearly over: the command saves, ends with ``REQUEUE`` and wants to
be started again. All others, such as SIGTERM, end it for good.
"""

from __future__ import annotations

import mmap
import os
import signal
import time
from types import FrameType
from typing import Any

WARNING = int(getattr(signal, "SIGUSR2", -1))
"""The signal that comes before the time is over; not SIGUSR1, which NCCL may take."""
REQUEUE = 75
"""Exit code after ``WARNING``: start the same command again."""
GAVE_UP = 76
"""Exit code after ``WARNING`` where starting it again would not help: two requeues have brought no step."""

_ATTENTION = 1.0
"""Seconds in which a signal for all processes of a job arrives in each of them."""
_FREE, _STAY, _LEAVE = range(3)


class Signals:
    """Remembers the first signal; whoever works looks at it when that is safe.

    A loader's process that is forked from this one and gets the signal too, as all processes of a job do, stays until
    this process has finished its batch.

    Attributes:
        received: The signal, if there was one; a stronger one takes the place of ``WARNING``.
        deferring: Whether somebody looks at ``received`` after every batch.
        gave_up: Whether it is of no use to start again after ``WARNING``.
        quiet: Whether another rank speaks for this one.
        note: What to say about the stop, such as where to resume.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferring = False
        self.gave_up = self.quiet = False
        self.note = ""
        self._process = os.getpid()
        self._workers = mmap.mmap(-1, 1)  # what forked processes read

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self.take(number)
        else:
            self.end_worker(number)

    def take(self, number: int) -> None:
        """Remember a signal of this process."""
        if self.received is None or self.received == WARNING:
            self.received = number
        if self.deferring:
            self._workers[0] = _STAY

    def defer(self) -> None:
        """From now on ``received`` is looked at after every batch."""
        self.deferring = True
        self._workers[0] = _STAY if self.received is not None else _FREE

    def release(self) -> None:
        """Nobody looks at ``received`` any more; loaders' processes may end."""
        self.deferring = False
        self._workers[0] = _LEAVE

    def ending(self) -> None:
        """The work is saved, and the process ends now."""

    def end_worker(self, number: int) -> None:
        """What a loader's process does: it ends, unless its parent has got the signal too and needs it."""
        if number in (signal.SIGINT, WARNING):
            return
        end = time.monotonic() + _ATTENTION
        while self._workers[0] != _LEAVE and time.monotonic() < end:
            if self._workers[0] == _STAY:
                return
            time.sleep(0.01)
        raise SystemExit(128 + number)

    @property
    def code(self) -> int:
        """The exit code after a signal."""
        if self.received == WARNING:
            return GAVE_UP if self.gave_up else REQUEUE
        return 128 + (self.received or 0)
