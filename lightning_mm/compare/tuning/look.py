"""Looks at a search before anything is trained: a wrong name is then found in seconds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from lightning_mm.compare.cell_config import Run, command_of, config_of, resolve
from lightning_mm.compare.look import look_at
from lightning_mm.compare.plan import Plan, Step
from lightning_mm.compare.tuning.tune import CALLBACK, Tune, method_of
from lightning_mm.errors import LightningMMError, UsageError


def look_at_trials(tune: Tune, run: Run) -> None:
    """Make the configs of trials with every value and both ends of every range, and look for the metric.

    Args:
        tune: The search.
        run: Runs a command of the command line.

    Raises:
        LightningMMError: If a parameter or setting does not exist or does not take a value, training would write no
            checkpoint, or the task lacks the metric; the message names what exists.
    """
    for trial in tune.extremes():
        study = replace(tune.study([]), methods=(method_of(trial.values, "parameters"),))
        step = Plan(study).fit(study.methods[0], None, study.seeds[0], None)
        try:
            look_at(study, [step], run)
            if study.methods[0].callbacks:
                _look_at_callbacks(tune, step, run)
        except LightningMMError as error:
            _check_names(tune, run)
            raise error
    metrics = run(command_of("look", step.stack, step.overrides))["metrics"]
    known = ["val/loss", *(f"val/{name}" for name in metrics)]
    if metrics and tune.metric not in known:
        raise LightningMMError(f"{tune.name}: metric: this task has {', '.join(known)}; got {tune.metric!r}")


def _look_at_callbacks(tune: Tune, step: Step, run: Run) -> None:
    """Parse the config of a trial again, with the changed arguments of its callbacks."""
    config = config_of(step.stack, step.overrides, step.patch, run)
    with tempfile.TemporaryDirectory(prefix="lightning_mm-tune-") as folder:
        path = Path(folder) / "cell.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        try:
            resolve([path], {}, run)
        except LightningMMError as error:
            said = str(error).removeprefix(f"{path}: ")
            raise type(error)(f"{tune.name}: parameters: {said}") from error


def _check_names(tune: Tune, run: Run) -> None:
    """Refuse a parameter or setting that the configs lack, and name its neighbours."""
    config = resolve(tune.configs, {}, run)
    names = [f"parameters: {one.name}" for one in tune.parameters] + [f"settings: {name}" for name in tune.settings]
    for name in names:
        lacking = neighbours(*_searched(config, name.partition(": ")[2]))
        if lacking is not None:
            above, part, others = lacking
            close = get_close_matches(part, others, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(
                f"{tune.name}: {name}: there is no {part!r}{f' in {above}' if above else ''}; {hint}it has "
                f"{', '.join(others)}"
            )


def _searched(config: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], str]:
    """The mapping that a parameter belongs to, and its name there; callbacks by their class."""
    if not name.startswith(CALLBACK):
        return config, name
    present = config["trainer"].get("callbacks") or []
    return {one["class_path"].rpartition(".")[2]: one.get("init_args") or {} for one in present}, name[len(CALLBACK) :]


def neighbours(config: Mapping[str, Any], name: str) -> tuple[str, str, list[str]] | None:
    """Where a dotted key leaves a config: the part that exists, the first that does not, and those that do there.

    Returns:
        ``None`` if the key is there, or below a value that is no mapping.

    Example:
        >>> neighbours({"model": {"lr": 0.1, "width": 8}}, "model.rate")
        ('model', 'rate', ['lr', 'width'])
    """
    parts, inner = name.split("."), config
    for place, part in enumerate(parts):
        if part not in inner:
            return ".".join(parts[:place]), part, list(inner)
        inner = inner[part]
        if not isinstance(inner, Mapping):
            return None
    return None
