"""``--ckpt_path auto``: where a fit goes on when the same command is run again, and when it does not."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lightning_mm.callbacks.resuming import RESUME, SETTINGS
from lightning_mm.cli.lightning.checkpoint_files import TRAINING
from lightning_mm.errors import LightningMMError, UsageError, shown
from lightning_mm.files import write_atomically
from lightning_mm.json_files import read_json
from lightning_mm.schemas.base import check
from lightning_mm.schemas.fit import FitState
from lightning_mm.signals import GAVE_UP
from lightning_mm.tasks.checkpoints import read_checkpoint

AUTO = "auto"
"""The value of ``--ckpt_path``."""
STATE = "fit.state.json"
"""In the run's folder: whether it has finished, and how far it had come when it was requeued."""
RESTARTS = ("LIGHTNING_MM_RESTARTS", "SLURM_RESTART_COUNT")
"""Environment variables: how often this job has been requeued, as its script says, or Slurm."""
USELESS = 2
"""Requeues without a step after which a run gives up."""
HOPELESS = f"{USELESS} requeues have brought no step, so this run gives up; give the job more time, or less to start"
WAY_OUT = (
    "to go on from it all the same give --ckpt_path and this path, to start anew remove it or give another "
    "--trainer.default_root_dir"
)
_FREE = (
    "ckpt_path", "weights_only", "trainer.default_root_dir", "trainer.logger", "trainer.enable_progress_bar",
    "trainer.enable_model_summary", "trainer.log_every_n_steps", "trainer.profiler", "trainer.max_time",
    "data.num_workers", "data.pin_memory", "data.persistent_workers", "data.prefetch_factor",
)  # fmt: skip
"""Settings that do not decide what is trained; a resumed run may have others."""
_SHOWN = 3


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a fit that decide what is trained, as dotted names to plain values.

    Args:
        config: Of the verb, in plain types. Its folder may be another one: paths in it are written with ``{folder}``.
    """
    folder = str(config["trainer"].get("default_root_dir") or ".")

    def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if name in _FREE or (isinstance(value, Mapping) and str(value.get("class_path")).endswith(".ResumeCheckpoint")):
            return
        if isinstance(value, (Mapping, list)) and value:
            for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
                yield from leaves(item, f"{name}.{key}" if name else str(key))
        elif isinstance(value, str) and f"{value}/".startswith(f"{folder}/"):
            yield name, "{folder}" + value.removeprefix(folder)
        else:
            yield name, value

    plain: dict[str, Any] = json.loads(json.dumps(dict(leaves(config, "")), default=str))
    return plain


@dataclass
class Attempt:
    """One start of a fit in its folder.

    Args:
        folder: The ``default_root_dir``.
        settings: See :func:`settings_of`.
        restart: How often the job has been requeued before this start.
    """

    folder: Path
    settings: dict[str, Any]
    restart: int = 0
    has_resume: bool = False
    """Whether :meth:`find` has found a ``resume.ckpt`` of this run."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Attempt:
        """The start of a fit with a config."""
        given = next((value for name in RESTARTS if (value := os.environ.get(name, "")).isdigit()), "0")
        return cls(Path(config["trainer"].get("default_root_dir") or "."), settings_of(config), int(given))

    @property
    def key(self) -> str:
        """Hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def state(self) -> FitState | None:
        """What is known of earlier starts with these settings in this folder."""
        path = self.folder / STATE
        if not path.is_file():
            return None
        way_out = "remove it"
        found = check(FitState, read_json(path, way_out), path, way_out)
        return found if found.key == self.key else None

    def write(self, **fields: Any) -> None:
        """Write what later starts must know."""
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            state = FitState(key=self.key, restart=self.restart, **fields)
            write_atomically(self.folder / STATE, f"{state.model_dump_json(indent=1)}\n")

    def useless(self) -> int:
        """How many requeues have passed since the start that was the first one at its step."""
        state = self.state()
        return 0 if state is None else max(self.restart - state.restart, 0)

    def find(self, config: Mapping[str, Any], way_out: str = WAY_OUT) -> Path | None:
        """The checkpoint to go on from: the farthest ``resume.ckpt`` or ``last.ckpt`` of this run, if there is one.

        Args:
            config: Of the verb, in plain types.
            way_out: What to do if there are only checkpoints of runs with other settings.

        Raises:
            UsageError: If there are only checkpoints of runs with other settings; the message names what differs.
        """
        own: list[tuple[int, int, Path]] = []
        others: list[str] = []
        for path in _candidates(self.folder, config):
            try:
                content = read_checkpoint(path, in_place=True)
            except LightningMMError as error:
                say(f"ckpt_path auto: {path} is left out: {error}")
                continue
            differs = _differences(content, self.settings)
            if differs:
                others.append(f"{path} is {differs}")
            else:
                own.append((int(content.get("global_step", 0)), path.stat().st_mtime_ns, path))
        if others and not own:
            raise UsageError(f"ckpt_path auto: {others[0]}; {way_out}")
        for one in others:
            say(f"ckpt_path auto: left out: {one}")
        self.has_resume = any(path.name == RESUME for _, _, path in own)
        return max(own)[2] if own else None

    def begin(self, path: Path | None) -> None:
        """Note how far the run is; end the process if it has finished, or starting it again has been of no use."""
        state = self.state()
        if state is not None and state.finished:
            say(f"this fit has finished (see {self.folder / STATE}); without --ckpt_path auto it starts anew")
            raise SystemExit(0)
        step = 0 if path is None else int(read_checkpoint(path, in_place=True).get("global_step", 0))
        if self.restart == 0 or state is None or step > state.step or self.restart < state.restart:
            self.write(step=step)  # by the first rank; the others may look before or after it
        elif self.restart - state.restart > USELESS:
            say(HOPELESS)
            raise SystemExit(GAVE_UP)
        say("ckpt_path auto: " + (f"goes on from {path}, step {step}" if path else "a first start, nothing to resume"))


@rank_zero_only
def say(text: str) -> None:
    """Print a line, in the first rank."""
    print(f"lightning-mm: {text}", flush=True)


def _candidates(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    callbacks = config["trainer"].get("callbacks") or []
    found = [folder / RESUME]
    for one in [callbacks] if isinstance(callbacks, Mapping) else callbacks:
        given = one.get("init_args") or {}
        name = str(one.get("class_path")).rpartition(".")[2]
        place = given.get("dirpath") if name == "ModelCheckpoint" and given.get("save_last") else None
        if name == "BestModelCheckpoint":
            place = folder
        if place:
            found += sorted(Path(place).glob("last*.ckpt"))
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _differences(content: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What is wrong with a checkpoint of another run; nothing if it is of a run with these settings."""
    there = content.get(SETTINGS)
    if not isinstance(there, Mapping):
        return "of an older release or another program, which kept no settings"
    if any(not isinstance(content.get(key), kind) for key, kind in TRAINING.items()):
        return "without the state of a training (save_weights_only)"
    names = [*settings, *(name for name in there if name not in settings)]
    none = object()

    def differ(name: str) -> bool:
        one, two = (values.get(name, none) for values in (there, settings))
        return (one is none) != (two is none) or (one is not none and json.dumps(one) != json.dumps(two))

    different = [name for name in names if differ(name)]
    if not different:
        return ""
    lines = [
        f"{name}: {shown(there[name]) if name in there else 'not given'} there, "
        f"{shown(settings[name]) if name in settings else 'not given'} now"
        for name in different[:_SHOWN]
    ]
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return f"of a run with other settings ({'; '.join(lines)}{more})"
