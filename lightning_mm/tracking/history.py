"""The lines of a fit in Weights & Biases: one per step of the training, each once over all of its resumes.

W&B writes lines seconds after it got them, so a kill loses the last ones; and a resume repeats the steps since its
checkpoint. A resumed fit equals the uninterrupted one, so a line that W&B has is dropped when it comes again, and one
that it has lost is taken from the checkpoint or comes again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from lightning_mm.tracking.identity import Lines

SECONDS, MOST = 60.0, 1000
"""How old lines may be, and how many, that a checkpoint keeps for a resume; W&B writes every 15 seconds."""

Write = Callable[[dict[str, Any], int], int]
"""Writes a line at a step of W&B or, if that one is taken, a later one; returns which."""


class History:
    """Collects what is logged within a step and writes it as one line when the step is over.

    Args:
        write: Writes a line.
        known: The last step that W&B has a line of; -1 if it has none.
        ahead: How far W&B's count of lines is ahead of the steps.
    """

    def __init__(self, write: Write, known: int = -1, ahead: int = 0) -> None:
        self.write, self.known, self.ahead = write, known, ahead
        self.step = known  # of the last line that was written
        self._open: tuple[int, dict[str, Any]] | None = None
        self._recent: deque[tuple[float, int, dict[str, Any]]] = deque(maxlen=MOST)
        self._kept = False  # whether a checkpoint could bring the open line back
        self.lost_since: float | None = None
        """When W&B failed, by the clock of :func:`time.monotonic`: checkpoints keep all lines since then."""

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Log values of a step; those of a step that W&B has are dropped."""
        self.close(before=step)
        if step > self.known:
            self._open = (step, {**(self._open[1] if self._open else {}), **values})

    def bring_back(self, lines: Lines) -> None:
        """Log the lines that a checkpoint has kept, and that W&B may have lost."""
        for step, values in lines:
            self.add(step, values)
        self._kept = bool(lines)

    def close(self, before: int | None = None) -> None:
        """Write the open line, if its step is over.

        Args:
            before: The step that the training has reached; by default the line is written in any case.
        """
        if self._open is None or (before is not None and self._open[0] >= before):
            return
        (step, values), self._open = self._open, None
        self._recent.append((time.monotonic(), step, values))
        self.ahead = self.write(values, step) - step
        self.step = step

    def keep(self, step: int, values: Mapping[str, Any]) -> Lines:
        """The lines for a checkpoint.

        Args:
            step: A step of the training.
            values: What is logged in it after the checkpoint is written, and not again by a resume.
        """
        self._kept = True
        after = (time.monotonic() if self.lost_since is None else self.lost_since) - SECONDS
        lines = [(at, line) for written, at, line in self._recent if written >= after]
        last = dict(self._open[1]) if self._open is not None and self._open[0] == step else {}
        if self._open is not None and not last:
            lines.append(self._open)
        if last or values:
            lines.append((step, {**last, **values}))
        plain = [(at, {key: one for key, one in line.items() if _is_plain(one)}) for at, line in lines]
        return [(at, line) for at, line in plain if at > self.known]

    def end(self, finished: bool) -> None:
        """Write the open line at the end, unless a resume writes it: the rest of its step is still to come."""
        if finished or not self._kept:
            self.close()
        self._open = None


def _is_plain(value: Any) -> bool:
    """Whether a checkpoint may hold a value: pictures and tables are in the files of the run."""
    return value is None or isinstance(value, (bool, int, float, str))
