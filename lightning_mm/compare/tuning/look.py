"""Looks at a search before anything is trained: a wrong name is then found in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from lightning_mm.compare.cell_config import Run, command_of, resolve
from lightning_mm.compare.look import look_at
from lightning_mm.compare.plan import Plan
from lightning_mm.compare.study import Method
from lightning_mm.compare.tuning.tune import TRIAL, Tune
from lightning_mm.errors import LightningMMError


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
        study = replace(tune.study([]), methods=(Method("parameters", TRIAL, settings=trial.values),))
        step = Plan(study).fit(study.methods[0], None, study.seeds[0], None)
        try:
            look_at(study, [step], run)
        except LightningMMError as error:
            _check_names(tune, run)
            raise error
    metrics = run(command_of("look", step.stack, step.overrides))["metrics"]
    known = ["val/loss", *(f"val/{name}" for name in metrics)]
    if metrics and tune.metric not in known:
        raise LightningMMError(f"{tune.name}: metric: this task has {', '.join(known)}; got {tune.metric!r}")


def _check_names(tune: Tune, run: Run) -> None:
    """Refuse a parameter or setting that the configs lack, and name its neighbours."""
    config = resolve(tune.configs, {}, run)
    names = [f"parameters: {one.name}" for one in tune.parameters] + [f"settings: {name}" for name in tune.settings]
    for name in names:
        lacking = neighbours(config, name.partition(": ")[2])
        if lacking is not None:
            above, part, others = lacking
            close = get_close_matches(part, others, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise LightningMMError(
                f"{tune.name}: {name}: there is no {part!r}{f' in {above}' if above else ''}; {hint}it has "
                f"{', '.join(others)}"
            )


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
