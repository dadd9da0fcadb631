"""Runs one step in a process of its own: makes its config, runs its command, and marks it as finished."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.adapters.kinds.bn_refit import NoBatchNormError
from lightning_mm.compare.plan import CHECKPOINT, CONFIG, Step
from lightning_mm.errors import LightningMMError
from lightning_mm.files import replace_file

Run = Callable[[list[str]], dict[str, Any]]
"""Runs a command of the command line; of ``fit`` it returns ``seconds``, ``cpu_seconds`` and ``trained`` parameters."""
KEPT = ("seed_everything", "trainer", "model", "data")


def perform(step: Step, run: Run) -> dict[str, Any]:
    """Run a step unless it is finished already, and return what its marker says.

    A kill at any moment leaves either no marker, and the step is run again from its start, or a whole one.

    Raises:
        LightningMMError: As the command does, or if training left no checkpoint.
    """
    step.folder.mkdir(parents=True, exist_ok=True)
    with _locked(step.folder):
        facts = finished(step)
        if facts is not None:
            return facts
        if step.stage == "fit":
            _empty(step.folder)
        with _logged(step.folder / f"{step.stage}.log"):
            try:
                facts = _run(step, run)
            except Exception:
                traceback.print_exc()  # for the log; the study says what it comes to
                raise
        text = json.dumps({"key": step.key, "command": list(step.command), **facts}, indent=1)
        replace_file(step.marker, lambda file: file.write(f"{text}\n".encode()))
        return {"key": step.key, "command": list(step.command), **facts}


def finished(step: Step) -> dict[str, Any] | None:
    """What the marker of a finished step says; ``None`` if there is none with the step's key."""
    try:
        facts: dict[str, Any] = json.loads(step.marker.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    if not isinstance(facts, dict) or facts.get("key") != step.key:
        return None
    return facts if "skipped" in facts or all(path.is_file() for path in _written(step)) else None


def _written(step: Step) -> list[Path]:
    """The files that a finished step must have left."""
    if step.stage == "fit":
        return [step.folder / CONFIG, *([step.folder / CHECKPOINT] if step.command else [])]
    return [Path(step.command[step.command.index("--out") + 1]) / ("" if step.stage == "means" else "sweep.csv")]


def _run(step: Step, run: Run) -> dict[str, Any]:
    if step.stage == "fit":
        config = patched(resolve(step.stack, step.overrides, run), step.patch)
        text = f"# lightning-mm {' '.join(step.command) or 'sweep: nothing is trained'}\n"
        text += yaml.safe_dump(config, sort_keys=False)
        replace_file(step.folder / CONFIG, lambda file: file.write(text.encode()))
    start = time.perf_counter()
    facts: dict[str, Any] = {}
    try:
        if step.command:
            facts = run(list(step.command))
    except NoBatchNormError as error:
        return {"skipped": str(error)}
    if step.stage == "fit" and step.command and not (step.folder / CHECKPOINT).is_file():
        raise LightningMMError(
            f"{step.folder}: training wrote no {CHECKPOINT}; the study's config needs a ModelCheckpoint with dirpath "
            "${trainer.default_root_dir} and filename: best"
        )
    return {**facts, "command_seconds": round(time.perf_counter() - start, 2)}


def resolve(stack: Sequence[Path], overrides: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The config that ``lightning-mm fit`` would run with: files stacked, settings applied, references resolved."""
    command = ["fit", *(part for path in stack for part in ("-c", str(path)))]
    for key, value in overrides.items():
        command.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            run([*command, "--print_config"])
    except SystemExit:
        pass
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return {key: config[key] for key in KEPT}


def patched(config: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A config as a recipe changes it.

    Args:
        config: A resolved one.
        patch: ``train_policy`` and ``val_policy`` of the data, ``fill`` of the task, ``callbacks`` to put before the
            first ModelCheckpoint, ``init_args`` (class name to arguments) of callbacks that are there, and ``only``:
            the modalities that are kept; every mapping whose keys are exactly all modalities is cut to them.

    Raises:
        LightningMMError: If arguments are given for a callback that is not there.
    """
    changed: dict[str, Any] = deepcopy(dict(config))
    for key in ("train_policy", "val_policy"):
        if key in patch:
            changed["data"][key] = dict(patch[key])
    if "fill" in patch:
        changed["model"]["init_args"]["fill"] = dict(patch["fill"])
    if patch.get("callbacks"):
        present = changed["trainer"].get("callbacks") or []
        first = next((i for i, one in enumerate(present) if "ModelCheckpoint" in one["class_path"]), len(present))
        added = [dict(one) for one in patch["callbacks"]]
        changed["trainer"]["callbacks"] = [*present[:first], *added, *present[first:]]
    for name, init_args in (patch.get("init_args") or {}).items():
        present = changed["trainer"].get("callbacks") or []
        found = [one for one in present if one["class_path"].rpartition(".")[2] == name]
        if not found:
            names = [one["class_path"].rpartition(".")[2] for one in present]
            raise LightningMMError(f"callbacks: there is no {name!r} among those of the configs, {names}")
        for one in found:
            one["init_args"] = {**(one.get("init_args") or {}), **init_args}
    if "only" in patch:
        everything = set(changed["data"]["modalities"])
        changed["data"] = cut(changed["data"], everything, patch["only"])
        changed["model"] = cut(changed["model"], everything, patch["only"])
        changed["data"]["modalities"] = list(patch["only"])
    return changed


def cut(value: Any, everything: set[str], only: Sequence[str]) -> Any:
    """Keep some modalities in every mapping whose keys are exactly all of them."""
    if isinstance(value, Mapping):
        if set(value) == everything:
            return {name: value[name] for name in only}
        return {key: cut(leaf, everything, only) for key, leaf in value.items()}
    if isinstance(value, list):
        return [cut(leaf, everything, only) for leaf in value]
    return value


def die_with_parent(parent: int, interval: float = 0.5) -> None:
    """End this process soon after the one that started it: a killed study must leave nobody who goes on writing.

    Args:
        parent: Its process number; told, and not asked for here, as it may have been killed already.
        interval: Seconds between two looks.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until nobody else works in a folder: a process that a kill has left behind ends within a second."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _empty(folder: Path) -> None:
    """Take out what an earlier, unfinished or outdated run has left."""
    # Markers first: what is left of a half emptied folder must not look finished.
    for path in sorted(folder.iterdir(), key=lambda path: not path.name.endswith(".done.json")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


@contextmanager
def _logged(path: Path) -> Iterator[None]:
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
