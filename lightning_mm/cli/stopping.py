"""Signals that end a command: the first one in order, the second one at once.

SIGTERM is what ``docker stop``, preemption and most queues send, SIGINT is Ctrl-C, SIGHUP a closed terminal. A command
that was stopped ends with 128 plus the number of the signal, so that ``fit && sweep`` does not go on. SIGUSR2 is a
queue's warning that the time is nearly over; the command then ends with 75, which asks to be started again.
"""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType
from typing import Any

from lightning_mm.errors import Stopped
from lightning_mm.signals import WARNING, Signals

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2") if hasattr(signal, name))
LAUNCHER = "LIGHTNING_MM_LAUNCHER"
"""Environment variable: the process that started this one, if that is a command too (a rank of a distributed run)."""
SCHEDULED = "SLURM_JOB_ID"
"""Environment variable of a job of a queue, which may send a signal twice, and ends a job that does not end itself."""
PATIENCE = 60.0
"""Seconds after which a rank of a distributed run ends at once: it may wait for one that has ended already."""


class Stop(Signals):
    """Handles the signals within its block; handlers that a caller has set stay.

    While ``deferring``, a training looks at ``received`` after every step; otherwise the handler raises ``Stopped``.

    Attributes:
        follows: Whether this is a rank that another command has started, which speaks for it.
        continues: Whether the command, run again, goes on where it was; others do not listen to SIGUSR2, as they may
            still end in time.
        of_process: Whether the process ends with the command.
    """

    def __init__(self, of_process: bool = False) -> None:
        super().__init__()
        self._before: dict[int, Any] = {}
        self.follows, self.continues, self.of_process = False, True, of_process
        self._ending = False

    def __enter__(self) -> Stop:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may set handlers
        self.follows = os.environ.get(LAUNCHER) == str(os.getppid()) and os.environ.get("LOCAL_RANK", "0") != "0"
        if self.follows:
            from lightning_mm.compare.executor import die_with_parent

            die_with_parent(os.getppid())
        else:
            os.environ[LAUNCHER] = str(os.getpid())
        for one in SIGNALS:
            before = signal.getsignal(one)
            if before in (signal.SIG_DFL, signal.default_int_handler):
                self._before[one] = before
                signal.signal(one, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.deferring = False
        for one, before in self._before.items():
            # Python takes a while to end. A warning that comes then is too late, and as soon as the first rank has
            # ended, srun and others send SIGTERM to those that are about to.
            late = one == WARNING or (self._ending and one != signal.SIGINT)
            signal.signal(one, signal.SIG_IGN if late and self.of_process else before)
        if os.environ.get(LAUNCHER) == str(os.getpid()):
            del os.environ[LAUNCHER]

    def take(self, number: int) -> None:
        if number == WARNING and not self.continues:
            if self.received is None and not self.follows:
                os.write(2, b"lightning-mm: SIGUSR2: this command cannot be continued later, so it goes on\n")
            return
        if self._ending and number != signal.SIGINT:
            return
        again = self.received is not None and self.received != WARNING
        super().take(number)
        if again and number != WARNING:
            # A rank that another command has started may get the signal from the terminal and from that command.
            if not self.follows and (number == signal.SIGINT or SCHEDULED not in os.environ):
                end_at_once(number)
        elif not again and not self.deferring:
            self.ending()  # another rank may never come
            raise Stopped(number)

    def ending(self) -> None:
        self._ending = self.deferring
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            watch = threading.Timer(PATIENCE, end_at_once, [self.code])
            watch.daemon = True
            watch.start()

    def message(self) -> str:
        """The line that is printed after a signal."""
        name = signal.Signals(self.received or 0).name
        return f"stopped by {name}" + (f"; {self.note}" if self.note else "")


def end_at_once(number: int) -> None:
    """End this process and those that it has started.

    Args:
        number: Of a signal, or an exit code above the numbers of signals.
    """
    import multiprocessing

    os.write(2, b"lightning-mm: ended at once\n")
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number if number < signal.NSIG else number)
