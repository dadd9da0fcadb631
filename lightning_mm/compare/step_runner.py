"""Performs one step: makes its config, runs its command, and marks it as finished."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.compare.cell_config import Run, config_of
from lightning_mm.compare.plan import CHECKPOINT, CONFIG, Step
from lightning_mm.errors import LightningMMError, NotApplicableError, shown
from lightning_mm.files import lock, write_atomically

Facts = dict[str, Any]
"""Content of a finished step's marker: its key, what it took, or why it was skipped."""
_FACTS: dict[str, Any] = {
    "key": str, "command": list, "skipped": str, "seconds": (int, float), "cpu_seconds": (int, float), "trained": int,
    "command_seconds": (int, float),
}  # fmt: skip
_WORDS: dict[Any, str] = {
    str: "text", list: "a list", int: "a whole number of 0 or more", (int, float): "a number of 0 or more"
}  # fmt: skip
LOCK = ".lock"
"""Lock file of a folder in which a study or a step works."""


def perform(step: Step, run: Run) -> Facts:
    """Run a step unless it is finished, and return its facts.

    A kill at any moment leaves no marker, and the step is run again from its start, or a complete one.

    Raises:
        LightningMMError: As the command does, or if training left no checkpoint.
    """
    # A worker whose study was killed holds the lock for a second at most.
    with lock(step.folder / LOCK, wait=True):
        facts = finished(step)
        if facts is not None:
            return facts
        if step.stage == "fit":
            _empty(step.folder)
        with logged(step.folder / f"{step.stage}.log"):
            try:
                facts = _run(step, run)
            except Exception:
                traceback.print_exc()  # for the log; the study's error is shorter
                raise
        text = json.dumps({"key": step.key, "command": list(step.command), **facts}, indent=1)
        write_atomically(step.marker, f"{text}\n")
        return {"key": step.key, "command": list(step.command), **facts}


def finished(step: Step) -> Facts | None:
    """The facts of a finished step; ``None`` if it has no marker with its key.

    A step that needs a skipped one is skipped too, for the same reason.
    """
    needed = [finished(need) for need in step.needs]
    for facts in needed:
        if facts is not None and "skipped" in facts:
            return {"skipped": facts["skipped"]}
    try:
        content: Any = json.loads(step.marker.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("key") != step.key:
        return None
    _check_facts(step.marker, content)
    return content if "skipped" in content or all(path.is_file() for path in _written(step)) else None


def _check_facts(marker: Path, content: Facts) -> None:
    """Raise a LightningMMError unless the marker of a finished step holds what :func:`perform` writes."""
    for name, value in content.items():
        known = _FACTS.get(name)
        if known is None:
            continue
        right = isinstance(value, known) and not isinstance(value, bool)
        if not right or (isinstance(value, (int, float)) and not 0 <= value < math.inf):
            expected = _WORDS[known]
            raise LightningMMError(
                f"{marker} is damaged ({name}: expected {expected}, got {shown(value)}); remove it to run the step "
                "again"
            )


def all_finished(steps: Iterable[Step]) -> dict[Path, Facts]:
    """Marker to facts of the steps that are finished together with all that they need.

    Args:
        steps: Each after those that it needs.
    """
    found: dict[Path, Facts] = {}
    for step in steps:
        facts = finished(step) if all(need.marker in found for need in step.needs) else None
        if facts is not None:
            found[step.marker] = facts
    return found


def _written(step: Step) -> list[Path]:
    """The files that a finished step has written."""
    if step.stage == "fit":
        return [step.folder / CONFIG, *([step.folder / CHECKPOINT] if step.command else [])]
    out = Path(step.command[step.command.index("--out") + 1])
    return [out if step.stage in ("means", "features") else out / "sweep.csv"]


def _run(step: Step, run: Run) -> Facts:
    if step.stage == "fit":
        try:
            config = config_of(step.stack, step.overrides, step.patch, run)
        except NotApplicableError as error:
            return {"skipped": str(error)}
        text = f"# lightning-mm {' '.join(step.command) or 'sweep: nothing is trained'}\n"
        text += yaml.safe_dump(config, sort_keys=False)
        write_atomically(step.folder / CONFIG, text)
    start = time.perf_counter()
    facts: Facts = {}
    try:
        if step.command:
            facts = run(list(step.command))
    except NotApplicableError as error:
        return {"skipped": str(error)}
    if step.stage == "fit" and step.command and not (step.folder / CHECKPOINT).is_file():
        raise LightningMMError(
            f"{step.folder}: training wrote no {CHECKPOINT}; the study's config needs a ModelCheckpoint with dirpath "
            "${trainer.default_root_dir} and filename: best"
        )
    return {**facts, "command_seconds": round(time.perf_counter() - start, 2)}


def _empty(folder: Path) -> None:
    """Remove what an earlier, unfinished or outdated run left."""
    # Markers first: a half emptied folder must not look finished.
    for path in sorted(folder.iterdir(), key=lambda path: not path.name.endswith(".done.json")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send what the process prints, loggers of libraries included, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])
