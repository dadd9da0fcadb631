"""Looks at what a study asks for before anything is trained: a mistake is then found in seconds, not after hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_mm.compare.cell_config import Run, command_of, config_of
from lightning_mm.compare.plan import CHECKPOINT, Plan, Step
from lightning_mm.compare.recipes import BASE
from lightning_mm.compare.study import Study
from lightning_mm.errors import LightningMMError, NotApplicableError

WRITER = "lightning.pytorch.callbacks.ModelCheckpoint"


def configs_to_look_at(study: Study) -> list[Step]:
    """One training of each method that has configs, settings or values to choose from, with the first seed."""
    plan, seed = Plan(study), study.seeds[0]
    found = []
    for method in study.methods:
        if method.name == BASE or method.configs or method.settings or method.callbacks or method.tune:
            combination = study.combinations_of(method)[0]
            values = method.tuned[1] if method.tuned is not None else [None]
            found += [plan.fit(method, combination, seed, value) for value in values]
    return found


def look_at(study: Study, steps: Sequence[Step], run: Run) -> None:
    """Make the configs of steps, and look at the task if the study wants a metric or the most frequent label.

    Raises:
        LightningMMError: If a setting does not exist or has a wrong value, training would write no checkpoint, or the
            task lacks the metric or labels; the message names the method.
    """
    for step in steps:
        try:
            config = config_of(step.stack, step.overrides, step.patch, run)
            _check_writer(config, step)
        except NotApplicableError:
            continue  # the step is skipped, and the table says why
        except LightningMMError as error:
            raise type(error)(f"{study.name}: {step.method}: {error}") from error
    if study.metric is None and not study.majority:
        return
    base = next(step for step in steps if step.method == BASE)
    facts = run(command_of("look", base.stack, base.overrides))
    metrics = facts["metrics"]
    if study.metric is not None and metrics and study.metric not in metrics:
        raise LightningMMError(f"metric: this task has {', '.join(metrics)}; got {study.metric!r}")
    if study.majority and not facts["labels"]:
        raise LightningMMError("majority: the sweeps of this task keep no labels; leave `majority` out of the study")


def _check_writer(config: Mapping[str, Any], step: Step) -> None:
    """Refuse a config whose training would leave no ``best.ckpt`` in its folder."""
    if not step.command:
        return
    callbacks = config["trainer"].get("callbacks") or []
    writers = [one for one in callbacks if "Checkpoint" in one["class_path"]]
    own = [one for one in writers if one["class_path"] != WRITER]  # a class of the user's may have other defaults
    right = [one for one in writers if _writes(one.get("init_args") or {}, step.folder)]
    if not own and not right:
        raise LightningMMError(
            f"training would write no {CHECKPOINT}; the config needs a ModelCheckpoint with dirpath "
            "${trainer.default_root_dir} and filename: best, or lightning_mm.callbacks.BestModelCheckpoint"
        )


def _writes(arguments: Mapping[str, Any], folder: Path) -> bool:
    place, name = arguments.get("dirpath"), arguments.get("filename")
    return name == Path(CHECKPOINT).stem and place is not None and Path(place).resolve() == folder.resolve()
