"""Which run of Weights & Biases a fit writes to: one over all of its resumes, a new one for anything else.

``wandb_run.json`` in the folder of the fit names its run, the settings that it belongs to, and how far it has got; the
checkpoints of the fit name it too, with the lines that W&B may not have written yet when they were saved.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lightning_mm.errors import LightningMMError
from lightning_mm.files import write_atomically
from lightning_mm.json_files import read_json
from lightning_mm.settings_files import mapped

RUN_FILE = "wandb_run.json"
WAY_OUT = "remove it: the next fit is then a new run"
CHECKPOINT_ENTRY = "lightning_mm_wandb"
"""Entry of a checkpoint that names the run of its fit."""
JOB = (
    "job_id", "job_name", "array_job_id", "array_task_id", "cluster_name", "job_partition", "job_nodelist",
    "restart_count",
)  # fmt: skip
"""What a run's config says of its Slurm job, by the names of Slurm's variables without ``SLURM_``."""
_ANY_VALUE = {
    "": ("config", "ckpt_path", "print_config"),
    "trainer": (
        "default_root_dir", "logger", "accelerator", "strategy", "devices", "num_nodes", "max_epochs", "max_steps",
        "max_time", "log_every_n_steps", "enable_progress_bar", "enable_model_summary", "enable_checkpointing",
        "profiler",
    ),
    "data": ("num_workers",),
}  # fmt: skip
"""Settings that a resumed fit may change and still be the same one: where it runs, how long, and what it shows."""

Lines = Sequence[tuple[int, Mapping[str, Any]]]
"""Steps of a training with the values that were logged in them."""


@dataclass(frozen=True)
class FitRun:
    """The run of a fit.

    Args:
        id: Id of the run.
        key: :func:`config_key` of the fit's config.
        project: Its project.
        entity: Its user or team; unknown offline.
        group: Its group.
        url: Its address; none offline.
        step: The last step of the training that W&B was given, from 0; -1 before the first.
        ahead: How far W&B's count of lines is ahead of the steps, by lines that were logged without one.
        finished: Whether the fit has come to its end.
        lines: The last lines, which W&B may not have written yet; only in checkpoints.
    """

    id: str
    key: str
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    url: str | None = None
    step: int = -1
    ahead: int = 0
    finished: bool = False
    lines: Lines = field(default=(), compare=False)

    @classmethod
    def read(cls, folder: Path) -> FitRun | None:
        """Read ``wandb_run.json`` of a folder; ``None`` if there is none.

        Raises:
            LightningMMError: If it is damaged.
        """
        from lightning_mm.schemas.base import check
        from lightning_mm.schemas.record import FitRunState

        path = folder / RUN_FILE
        if not path.is_file():
            return None
        return cls(**check(FitRunState, read_json(path, WAY_OUT), path, WAY_OUT).model_dump())

    def write(self, folder: Path) -> None:
        """Write ``wandb_run.json``."""
        write_atomically(folder / RUN_FILE, f"{json.dumps(self._facts(), indent=1)}\n")

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> FitRun | None:
        """The run that a checkpoint names; ``None`` if it names none, as those of other loggers."""
        from lightning_mm.schemas.base import check
        from lightning_mm.schemas.record import FitRunState

        entry = checkpoint.get(CHECKPOINT_ENTRY)
        if not isinstance(entry, Mapping):
            return None
        facts = {key: value for key, value in entry.items() if key != "lines"}
        try:
            state = check(FitRunState, facts, CHECKPOINT_ENTRY, "")
            lines = [(int(step), dict(values)) for step, values in entry.get("lines", ())]
        except (LightningMMError, TypeError, ValueError):
            return None  # of a newer version: the checkpoint itself is as good
        return cls(**state.model_dump(), lines=lines)

    def entry(self) -> dict[str, Any]:
        """What a checkpoint holds of it, in plain types."""
        return {**self._facts(), "lines": [(step, dict(values)) for step, values in self.lines]}

    def link(self) -> dict[str, str]:
        """What the config of another run says of this one."""
        named = {"id": self.id, "project": self.project, "entity": self.entity, "url": self.url}
        return {key: value for key, value in named.items() if value is not None}

    def _facts(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "lines"}


def config_key(config: Mapping[str, Any]) -> str:
    """A hash of the settings that make a fit, so that a resume of it is told from another fit in the same folder.

    Hardware, length, logging, and where the folder lies do not count, so a fit may be moved, continued on other
    machines, and made longer.

    Args:
        config: The whole config of a ``fit``, in plain types.
    """
    root = str((config.get("trainer") or {}).get("default_root_dir") or "")

    def placed(_: Any, leaf: Any) -> Any:
        inside = root and isinstance(leaf, str) and (leaf == root or leaf.startswith(f"{root}/"))
        return leaf.removeprefix(root) if inside else leaf

    kept: dict[str, Any] = {key: value for key, value in config.items() if key not in _ANY_VALUE[""]}
    for group, names in _ANY_VALUE.items():
        if isinstance(kept.get(group), Mapping):
            kept[group] = {key: value for key, value in kept[group].items() if key not in names}
    text = json.dumps(mapped(kept, placed), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_to_continue(
    folder: Path, key: str, checkpoint: Mapping[str, Any] | None, again: bool = False
) -> tuple[FitRun | None, str]:
    """The run that a fit continues.

    Args:
        folder: Of the fit.
        key: :func:`config_key` of its config.
        checkpoint: The checkpoint that it resumes; ``None`` for one that starts anew.
        again: Whether a fit without a checkpoint is the start of one that was ended before it had written any.

    Returns:
        The run, or ``None`` for a new one; and what to say about it, if anything.

    Raises:
        LightningMMError: If ``wandb_run.json`` is damaged.
    """
    known = FitRun.read(folder)
    if checkpoint is None:
        if known is not None and again and not known.finished and known.key == key:
            return known, ""
        return None, ""
    told = FitRun.of(checkpoint)
    if known is None:
        return None, "" if told is None else f"no {RUN_FILE} in {folder}: this fit is a new run, not {told.id}"
    before = told or known
    if before.key != key:
        return None, f"run {before.id} of {folder} has other settings: this fit is a new run"
    return before, ""


def slurm_job() -> dict[str, str]:
    """The Slurm job of this process, for the config of a run; empty outside a job."""
    found = {name: os.environ.get(f"SLURM_{name.upper()}") for name in JOB}
    return {name: value for name, value in found.items() if value is not None}
