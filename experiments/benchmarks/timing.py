"""Ratios of two times, measured in pairs of alternating order, since the speed of a machine drifts."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

Call = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """Median of time(ours) / time(base), its 95 % bootstrap interval, and the median time of the base in ms."""

    what: str
    median: float
    low: float
    high: float
    base_ms: float
    pairs: int
    limit: str = ""

    def row(self) -> str:
        """Format one line of the table."""
        timed = self.pairs > 1
        interval = f"{self.low:.3f} to {self.high:.3f}" if timed else "measured once"
        limit = f"{self.limit}: {'held' if self.holds() else 'missed'}" if self.limit else ""
        return f"| {self.what} | {self.median:.3f} | {interval} | {limit} | {f'{self.base_ms:.1f}' if timed else ''} |"

    def holds(self) -> bool:
        """Return whether the limit holds: ``1.15``, ``1.02 (lower bound)`` of the interval, or ``at least 1.6``."""
        if self.limit.startswith("at least "):
            return self.median >= float(self.limit.removeprefix("at least "))
        bound, _, of = self.limit.partition(" ")
        return (self.low if of else self.median) <= float(bound)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


HEADER = ["| what | median | 95 % interval | limit | base, ms |", "|---|--:|---|---|--:|"]


def ratio(what: str, ours: Call, base: Call, pairs: int, limit: str = "", grad: bool = False) -> Ratio:
    """Time both calls in alternating pairs, after three warm-up calls of each."""
    with torch.set_grad_enabled(grad):
        return summarise(what, timed_pairs(ours, base, pairs), limit)


def timed_pairs(ours: Call, base: Call, pairs: int) -> list[tuple[float, float]]:
    """Time both calls in alternating order, after three warm-up calls of each; seconds of (ours, base)."""
    for _ in range(3):
        ours(), base()
    return alternating(lambda: clock(ours), lambda: clock(base), pairs)


def alternating(ours: Callable[[], float], base: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """Call what measures its own seconds in alternating order; seconds of (ours, base)."""
    times = []
    for pair in range(pairs):
        first, second = (ours(), base()) if pair % 2 == 0 else (base(), ours())
        times.append((first, second) if pair % 2 == 0 else (second, first))
    return times


def summarise(what: str, times: Sequence[tuple[float, float]], limit: str = "") -> Ratio:
    """The ratio of pairs of times, with its interval."""
    ratios = np.array([mine / theirs for mine, theirs in times])
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    base_ms = 1000 * float(np.median([theirs for _, theirs in times]))
    return Ratio(what, float(np.median(ratios)), float(low), float(high), base_ms, len(times), limit)


def clock(call: Call) -> float:
    """Measure the seconds of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def write(rows: Sequence[Ratio], folder: Path, name: str, pairs: int) -> None:
    """Write the rows to ``name.json`` and as a table to ``name.md``, with the machine they were measured on."""
    machine = {
        "machine": f"{torch.get_num_threads()} threads, {platform.machine()}",
        "device": "cpu",  # the device of all tensors in the benchmarks
        "torch": torch.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    results = {"rows": [row.to_dict() for row in rows], **machine}
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    note = f"{pairs} alternating pairs on {machine['machine']}, torch {machine['torch']}."
    lines = [*HEADER, *(row.row() for row in rows), "", note]
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
