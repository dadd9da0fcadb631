"""Signals that ask a process to stop: what they mean, and who listens to them.

SIGUSR2 is the warning of a scheduler that the time is nearly over: the command saves, ends with ``REQUEUE`` and asks
to be started again. All others, such as SIGTERM, end it for good.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

WARNING = int(getattr(signal, "SIGUSR2", -1))
"""The signal that comes before the time is over; not SIGUSR1, which NCCL may take."""
REQUEUE = 75
"""Exit code after ``WARNING``: start the same command again."""
GAVE_UP = 76
"""Exit code after ``WARNING`` where starting it again would not help: two requeues have brought no step."""


class Signals:
    """Remembers the first signal; whoever works looks at it when that is safe.

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

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self.take(number)
        elif number not in (signal.SIGINT, WARNING):  # a process forked from this one, which ends it
            raise SystemExit(128 + number)

    def take(self, number: int) -> None:
        """Remember a signal of this process."""
        if self.received is None or self.received == WARNING:
            self.received = number

    def ending(self) -> None:
        """The work is saved, and the process ends now."""

    @property
    def code(self) -> int:
        """The exit code after a signal."""
        if self.received == WARNING:
            return GAVE_UP if self.gave_up else REQUEUE
        return 128 + (self.received or 0)
