"""Signals that end a command: the first one in order, the second one at once.

SIGTERM is what ``docker stop``, preemption and most queues send, SIGINT is Ctrl-C, SIGHUP a closed terminal. A command
that was stopped ends with 128 plus the number of the signal, so that ``fit && sweep`` does not go on.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from lightning_mm.errors import Stopped

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
LAUNCHER = "LIGHTNING_MM_LAUNCHER"
"""Environment variable: the process that started this one, if that is a command too (a rank of a distributed run)."""
PATIENCE = 60.0
"""Seconds after which a distributed run ends at once: a rank that waits for another one would wait for ever."""


class Stop:
    """Handles the signals within its block; handlers that a caller has set stay.

    Attributes:
        received: The first signal, if there was one.
        deferring: Whether it waits for the end of a training batch; otherwise the handler raises ``Stopped``.
        note: What to say about it, such as where to resume.
        follows: Whether this is a rank that another command has started, which speaks for it.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferring = False
        self.note = ""
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        self.follows = False
        self._passed_on = False

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
        for one, before in self._before.items():
            signal.signal(one, before)
        if os.environ.get(LAUNCHER) == str(os.getpid()):
            del os.environ[LAUNCHER]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's process, forked from this one, which ends it
            if number != signal.SIGINT:
                raise SystemExit(128 + number)
            return
        if self.received is not None:
            # A rank that another command has started may get the signal from the terminal and from that command.
            if not self._passed_on and not self.follows:
                end_at_once(number)
            return
        self.received = number
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            watch = threading.Timer(PATIENCE, end_at_once, [number])
            watch.daemon = True
            watch.start()
        if not self.deferring:
            raise Stopped(number)
        # While it trains, Lightning handles SIGTERM: it stops after the batch, in all ranks after the same one.
        handler = signal.getsignal(signal.SIGTERM)
        if number != signal.SIGTERM and callable(handler) and handler is not self:
            self._passed_on = True
            handler(signal.SIGTERM, frame)
            self._passed_on = False

    @property
    def code(self) -> int:
        """The exit code after a signal."""
        return 128 + (self.received or 0)

    def message(self) -> str:
        """The line that is printed after a signal."""
        name = signal.Signals(self.received or 0).name
        return f"stopped by {name}" + (f"; {self.note}" if self.note else "")


def end_at_once(number: int) -> None:
    """End this process and those that it has started."""
    import multiprocessing

    os.write(2, b"lightning-mm: ended at once\n")
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)
