"""Performs one step: makes its config, runs its command, and marks it as finished."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.compare.cell_config import Run, config_of, movable
from lightning_mm.compare.plan import CHECKPOINT, CONFIG, Step
from lightning_mm.errors import LightningMMError, NotApplicableError, shown
from lightning_mm.files import lock, write_atomically

Facts = dict[str, Any]
"""Content of a finished step's marker: its key, what it took, or why it was skipped."""
_FACTS: dict[str, Any] = {
    "key": str, "command": list, "skipped": str, "seconds": (int, float), "cpu_seconds": (int, float), "trained": int,
    "command_seconds": (int, float), "metrics": dict,
}  # fmt: skip
_WORDS: dict[Any, str] = {
    str: "text", list: "a list", dict: "names and values", int: "a whole number of 0 or more",
    (int, float): "a number of 0 or more",
}  # fmt: skip
LOCK = ".lock"
"""Lock file of a folder in which a study or a step works."""
BEGUN = "fit.begun.json"
"""File of a training that has begun: its key, and the seconds that earlier attempts took."""
STATE = "fit.state.json"
"""File of `fit` itself: how far it has come, and whether it has finished."""
RESUMABLE = ("resume.ckpt", "last.ckpt")
"""Checkpoints of a whole training, which may be continued from; the newest one counts."""


def perform(step: Step, run: Run, resume: bool = False) -> Facts:
    """Run a step unless it is finished, and return its facts.

    A kill at any moment leaves no marker, and the step is run again from its start, or a complete one.

    Args:
        step: The step.
        run: Runs a command of the command line.
        resume: Whether a training that was stopped is continued from its newest checkpoint, if its settings are the
            same; for trainings that take longer than a job may run.

    Raises:
        LightningMMError: As the command does, or if training left no checkpoint.
    """
    # A worker whose study was killed holds the lock for a second at most.
    with lock(step.folder / LOCK, wait=True):
        facts = finished(step)
        if facts is not None:
            return facts
        checkpoint = resumable(step) if resume else None
        if step.stage == "fit" and checkpoint is None:
            _empty(step.folder, keep=(LOCK, STATE) if resume and _has_begun(step) and not _has_ended(step) else (LOCK,))
        with logged(step.folder / f"{step.stage}.log", append=checkpoint is not None):
            try:
                facts = _run(step, run, checkpoint, resume)
            except Exception:
                traceback.print_exc()  # for the log; the study's error is shorter
                raise
        text = json.dumps({"key": step.key, "command": list(step.command), **facts}, indent=1)
        write_atomically(step.marker, f"{text}\n")
        (step.folder / BEGUN).unlink(missing_ok=True)
        return {"key": step.key, "command": list(step.command), **facts}


def resumable(step: Step) -> Path | None:
    """The newest checkpoint that a stopped training with the same settings has left, if there is one."""
    if step.stage != "fit" or not step.command or not _has_begun(step):
        return None
    found = [path for name in RESUMABLE if (path := step.folder / name).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _has_begun(step: Step) -> bool:
    return _begun(step).get("key") == step.key


def _has_ended(step: Step) -> bool:
    """Whether a training has ended well before its marker was written."""
    try:
        content: Any = json.loads((step.folder / STATE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("finished") is True


def _begun(step: Step) -> Facts:
    """What is known of a training that has begun; nothing if there is none, or its file is damaged."""
    try:
        content: Any = json.loads((step.folder / BEGUN).read_bytes())
        if isinstance(content, dict):
            _check_facts(step.folder / BEGUN, content)
            return content
    except (OSError, ValueError, RecursionError):
        pass
    return {}


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
    if "--out" not in step.command:  # of a validation, the marker holds the metrics
        return []
    out = Path(step.command[step.command.index("--out") + 1])
    return [out if step.stage in ("means", "features") else out / "sweep.csv"]


def _run(step: Step, run: Run, checkpoint: Path | None, resume: bool) -> Facts:
    if step.stage == "fit":
        try:
            config = movable(config_of(step.stack, step.overrides, step.patch, run))
        except NotApplicableError as error:
            return {"skipped": str(error)}
        text = f"# lightning-mm {' '.join(step.command) or 'sweep: nothing is trained'}\n"
        text += yaml.safe_dump(config, sort_keys=False)
        write_atomically(step.folder / CONFIG, text)
    start = time.perf_counter()
    facts: Facts = {}
    try:
        if step.stage == "fit" and step.command:
            facts = _train(step, run, checkpoint, resume)
        elif step.command:
            facts = run(list(step.command))
    except NotApplicableError as error:
        return {"skipped": str(error)}
    if step.stage == "fit" and step.command and not (step.folder / CHECKPOINT).is_file():
        raise LightningMMError(
            f"{step.folder}: training wrote no {CHECKPOINT}; the study's config needs a ModelCheckpoint with dirpath "
            "${trainer.default_root_dir} and filename: best"
        )
    return {**facts, "command_seconds": round(time.perf_counter() - start, 2)}


def _train(step: Step, run: Run, checkpoint: Path | None, resume: bool) -> Facts:
    """Train, or continue; what is counted in seconds includes the attempts before this one."""
    more = ["--ckpt_path", "auto"] if resume else []  # it also gives up where starting again is of no use
    if checkpoint is not None and _has_ended(step):
        more = ["--ckpt_path", str(checkpoint)]  # nothing is left to train; it says what the marker needs
    begun = _begun(step) if checkpoint is not None else {}
    earlier = {name: float(begun.get(name, 0)) for name in ("seconds", "cpu_seconds")}

    def note(wall: float, cpu: float) -> None:
        spent = {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}
        write_atomically(step.folder / BEGUN, f"{json.dumps({'key': step.key, **spent}, indent=1)}\n")

    note(earlier["seconds"], earlier["cpu_seconds"])
    start = time.perf_counter(), time.process_time()
    try:
        facts = run([*step.command, *more])
    except BaseException:  # a signal too
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        note(earlier["seconds"] + wall, earlier["cpu_seconds"] + cpu)
        raise
    return {**facts, **{name: round(facts[name] + before, 2) for name, before in earlier.items() if name in facts}}


def _empty(folder: Path, keep: Sequence[str]) -> None:
    """Remove what an earlier, unfinished or outdated run left."""
    # Markers first: a half emptied folder must not look finished.
    for path in sorted(folder.iterdir(), key=lambda path: not path.name.endswith(".done.json")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in keep:
            path.unlink()


@contextmanager
def logged(path: Path, append: bool = False) -> Iterator[None]:
    """Send what the process prints, loggers of libraries included, to a file, or to its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab" if append else "wb") as file:
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
