"""The table of a finished search: its trials sorted by the metric, and the settings of the best as a config."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from lightning_mm.compare.plan import CONFIG, Plan
from lightning_mm.compare.step_runner import Facts
from lightning_mm.compare.tuning.tune import Trial, Tune, method_of
from lightning_mm.errors import LightningMMError
from lightning_mm.files import write_atomically
from lightning_mm.provenance import git_commit, versions

TABLE, RECORD, BEST = "tune.csv", "tune.json", "best.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Args:
        trial: The trial.
        folder: Its folder.
        figures: Seed to the metric of the checkpoint that training kept; without the seeds that have none.
        seconds: CPU seconds of its trainings.
        parameters: Trained parameters.
        note: Why it has no figure.
    """

    trial: Trial
    folder: Path
    figures: Mapping[int, float]
    seconds: float = 0.0
    parameters: int = 0
    note: str = ""

    @property
    def mean(self) -> float:
        """The mean over seeds; not a number if a training diverged."""
        return math.nan if self.note or not self.figures else fmean(self.figures.values())

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; ``None`` for one seed."""
        return stdev(self.figures.values()) if len(self.figures) > 1 and math.isfinite(self.mean) else None


def outcomes(tune: Tune, facts: Mapping[Path, Facts]) -> list[Outcome]:
    """The trials whose steps are finished, the best first, the earlier one of equals first; diverged ones are last.

    Args:
        tune: The search.
        facts: Marker to facts of finished steps.

    Raises:
        LightningMMError: If the validation of a trial has no such metric.
    """
    trials = tune.trials()
    study = tune.study(trials)
    plan, found = Plan(study), []
    for trial in trials:
        method = study.method(trial.name)
        steps = [plan.validated(method, seed) for seed in study.seeds]
        if any(step.marker not in facts for step in steps):
            continue
        figures: dict[int, float] = {}
        note = ""
        for seed, step in zip(study.seeds, steps):
            known = facts[step.marker]
            if "skipped" in known:
                note = note or f"seed {seed}: {known['skipped']}"
                continue
            metrics = known.get("metrics") or {}
            if not isinstance(metrics.get(tune.metric), (int, float)):
                raise LightningMMError(
                    f"metric: the validation of {step.folder} has {', '.join(metrics) or 'none'}; got {tune.metric!r}"
                )
            figures[seed] = float(metrics[tune.metric])
        fits = [facts[step.needs[0].marker] for step in steps]
        seconds = sum(float(one.get("cpu_seconds") or one.get("seconds") or 0.0) for one in fits)
        trained = max(int(one.get("trained") or 0) for one in fits)
        found.append(Outcome(trial, study.out / trial.name, figures, round(seconds, 1), trained, note))
    sign = -1 if tune.goal == "maximize" else 1
    return sorted(found, key=lambda one: sign * one.mean if math.isfinite(one.mean) else math.inf)


def write_outcomes(tune: Tune, found: list[Outcome], command: str = "") -> dict[str, Path]:
    """Write ``tune.csv``, ``tune.json`` and ``best.yaml``, each as a whole.

    Args:
        tune: The search.
        found: Its trials, the best first.
        command: How it was started.

    Returns:
        Name to path of the files.

    Raises:
        LightningMMError: If no trial has a figure.
    """
    if not found or not math.isfinite(found[0].mean):
        why = found[0].note if found else "there are none"
        raise LightningMMError(f"{tune.name}: no trial has a finite {tune.metric}: {why}; change the parameters")
    written = {
        "table": write_atomically(tune.out / TABLE, table(tune, found)),
        "record": write_atomically(tune.out / RECORD, f"{json.dumps(_record(tune, found, command), indent=1)}\n"),
    }
    return {**written, "best": write_atomically(tune.out / BEST, best(tune, found[0], len(found)))}


def table(tune: Tune, found: list[Outcome]) -> str:
    """The trials as CSV; values that are lists or mappings are JSON."""
    names = [one.name for one in tune.parameters]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["rank", "trial", *names, tune.metric, "std", "n_seeds", "seconds", "trained", "folder", "note"]
    writer.writerow(head)
    for rank, one in enumerate(found, 1):
        cells = [cell(one.trial.values[name]) for name in names]
        figures = ["" if not math.isfinite(one.mean) else one.mean, "" if one.spread is None else one.spread]
        costs = [len(one.figures), one.seconds, one.parameters]
        writer.writerow([rank, one.trial.number, *cells, *figures, *costs, one.folder.name, one.note])
    return text.getvalue()


def cell(value: Any) -> str:
    """A value of a parameter in a table: text as it is, everything else as JSON.

    Example:
        >>> cell("adam"), cell(None), cell(0.01), cell({"a": [1]})
        ('adam', 'null', '0.01', '{"a": [1]}')
    """
    return value if isinstance(value, str) else json.dumps(value, default=str)


def best(tune: Tune, found: Outcome, count: int) -> str:
    """The settings of a trial as a config to stack on those of the search."""
    spread = "" if found.spread is None else f" +- {found.spread:.4g}"
    seeds = f"seed {tune.seeds[0]}" if len(tune.seeds) == 1 else f"seeds {', '.join(map(str, tune.seeds))}"
    stack = " ".join(f"-c {path}" for path in tune.configs)
    head = [
        f"# The best of {count} trials of {tune.name}: {tune.metric} {found.mean:.6g}{spread} ({seeds}).",
        f"#   lightning-mm fit {stack} -c {tune.out / BEST}",
        *(["# Settings of all trials: " + ", ".join(tune.settings)] if tune.settings else []),
    ]
    method = method_of(found.trial.values, found.trial.name)
    content = nested({**tune.settings, **method.settings})
    if method.callbacks:  # a list replaces the one before: all callbacks of the trial
        trained = yaml.safe_load((found.folder / f"seed{tune.seeds[0]}" / CONFIG).read_text(encoding="utf-8"))
        content.setdefault("trainer", {})["callbacks"] = trained["trainer"]["callbacks"]
    return "\n".join(head) + f"\n{yaml.safe_dump(content, sort_keys=False)}"


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as mappings inside each other; a later key may change a part of an earlier value.

    Example:
        >>> nested({"model.lr": 0.1, "model.width": 8})
        {'model': {'lr': 0.1, 'width': 8}}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        inner = found
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = deepcopy(value)
    return found


def _record(tune: Tune, found: list[Outcome], command: str) -> dict[str, Any]:
    return {
        "tune": tune.name,
        **({"command": command} if command else {}),
        "method": tune.method,
        "metric": {"name": tune.metric, "goal": tune.goal},
        "seeds": list(tune.seeds),
        "settings": dict(tune.settings),
        "best": dict(found[0].trial.values),
        "trials": [_trial(rank, one) for rank, one in enumerate(found, 1)],
        "versions": versions(),
        "commit": git_commit(),
    }


def _trial(rank: int, one: Outcome) -> dict[str, Any]:
    def plain(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "rank": rank,
        "trial": one.trial.number,
        "values": dict(one.trial.values),
        "mean": plain(one.mean),
        "std": plain(one.spread),
        "by_seed": {str(seed): plain(value) for seed, value in one.figures.items()},
        "seconds": one.seconds,
        "trained": one.parameters,
        "folder": one.folder.name,
        **({"note": one.note} if one.note else {}),
    }
