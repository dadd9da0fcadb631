"""Collects and writes the tables of a finished study."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lightning_mm.compare.choice import validation_mean
from lightning_mm.compare.executor import threads_of
from lightning_mm.compare.plan import Plan, Step
from lightning_mm.compare.recipes import BASE
from lightning_mm.compare.step_runner import Facts
from lightning_mm.compare.study import Method, Study
from lightning_mm.errors import LightningMMError
from lightning_mm.files import write_atomically
from lightning_mm.provenance import git_commit, versions
from lightning_mm.results.corruption import CorruptionResult, read_corruption, remove_corruption, save_corruption
from lightning_mm.results.files import read, save
from lightning_mm.results.merge import constant_rows, data_sets_of, merge, renamed
from lightning_mm.results.pictures import Examples, Picture, merge_examples, read_examples, write_pictures
from lightning_mm.results.result import SweepResult

MAJORITY = "majority"


def collect(study: Study, facts: Mapping[Path, Facts], choices: Mapping[str, Any]) -> SweepResult:
    """Merge all test sweeps into one result, with trained parameters, training seconds and notes.

    Raises:
        LightningMMError: If no method was run, or the task lacks the study's metric.
    """
    plan, results, notes = Plan(study), list[SweepResult](), list[str]()
    seconds: dict[str, float] = {}
    for method in study.methods:
        if not method.swept:
            continue
        steps = plan.tests(method, (choices.get(method.name) or {}).get("value"))
        skipped = [str(facts[step.marker]["skipped"]) for step in steps if "skipped" in facts[step.marker]]
        if skipped:
            notes.append(f"{method.name}: not run, {skipped[0]}")
            continue
        results += [_result(study, method, step) for step in steps]
        if method.recipe.trains:
            seconds[method.name] = sum(_fit_seconds(step, facts) for step in steps) / len(study.seeds)
    if not results:
        raise LightningMMError(f"{study.name}: no method was run; {'; '.join(notes) or 'it lists none but the base'}")
    merged = merge(results)
    notes = [*merged.notes, *notes]
    if study.metric is not None and study.metric not in merged.metrics:
        raise LightningMMError(f"metric: this task has {', '.join(merged.metrics)}; got {study.metric!r}")
    if study.majority:
        notes.append(f"{MAJORITY}: share of the most frequent label among the test samples")
        merged.rows += constant_rows(MAJORITY, _majority(results[0]), merged.primary_metric, like=merged)
    return replace(
        merged,
        modalities=list(study.modalities),
        seconds=seconds,
        notes=notes,
        parameters=_parameters(study, plan, merged, facts, choices),
        config={
            "study": dict(study.content),
            "chosen": {name: one["value"] for name, one in choices.items()},
            **_data_set(merged),
        },
    )


def _majority(result: SweepResult) -> float:
    """The share of the most frequent label among the samples of a sweep."""
    targets = [values for key, values in result.samples.items() if key.endswith("/target")]
    if not targets or targets[0].ndim != 1:
        raise LightningMMError("majority: the sweeps of this task keep no labels; leave `majority` out of the study")
    _, counts = np.unique(targets[0], return_counts=True)
    return float(counts.max() / counts.sum())


def _result(study: Study, method: Method, step: Step) -> SweepResult:
    result = read(step.folder / "sweep" / "sweep.csv")
    result = renamed(result, {result.methods[0]: method.name})
    # A dedicated network has some of the modalities only; combinations are written in the order of the study's.
    rows = [replace(row, combination=study.modalities.canonical(row.combination)) for row in result.rows]
    return replace(result, rows=rows, config={"split": "test", **_data_set(result)})


def _data_set(result: SweepResult) -> dict[str, str]:
    """The data set of a result as a part of a configuration, if it is known."""
    names = data_sets_of(result.config)
    return {"data_set": names[0]} if names else {}


def _parameters(
    study: Study, plan: Plan, merged: SweepResult, facts: Mapping[Path, Facts], choices: Mapping[str, Any]
) -> dict[str, dict[str, int]]:
    """Parameters as the sweeps count them, except for those trained: the sum over the networks of one seed."""
    found = dict(merged.parameters)
    for method in study.methods:
        if method.name in found:
            steps = plan.tests(method, (choices.get(method.name) or {}).get("value"))
            trained = sum(int(facts[step.needs[0].marker].get("trained") or 0) for step in steps)
            count = trained // len(study.seeds) if method.recipe.gradient else 0
            found[method.name] = {**found[method.name], "trained": count}
    return found


def _fit_seconds(step: Step, facts: Mapping[Path, Facts]) -> float:
    """CPU seconds of the training before a sweep; wall time depends on what else the machine did."""
    return _cpu(facts[step.needs[0].marker])


def _cpu(facts: Facts) -> float:
    return float(facts.get("cpu_seconds") or facts.get("seconds") or 0.0)


def write(
    study: Study,
    facts: Mapping[Path, Facts],
    choices: Mapping[str, Any],
    result: SweepResult,
    jobs: int = 1,
    command: str = "",
) -> dict[str, Path]:
    """Write the tables and ``study.json``: command, choices, costs, machine and versions."""
    written = save(result, study.results, timestamp=False)
    tuning = {}
    plan = Plan(study)
    for method in study.methods:
        steps = [step for seed in study.seeds for step in plan.validation(method, seed)]
        if steps and method.tuned is not None:
            fits = {step.needs[0].marker: step for step in steps}
            tuning[method.name] = round(sum(_fit_seconds(step, facts) for step in fits.values()), 1)
    validated = {}
    if study.validate:
        for method in study.methods:
            value = (choices.get(method.name) or {}).get("value")
            seeds = method.tune_seeds if method.tuned and method.tune_seeds else study.seeds
            steps = (
                []
                if not method.swept or method.recipe.each
                else [s for k in seeds for s in plan.sweeps(method, k, value, "val")]
            )
            if steps and not any("skipped" in facts[step.marker] for step in steps):
                validated[method.name] = round(validation_mean(steps)[0], 5)
    base = [plan.fit(study.method(BASE), None, seed, None) for seed in study.seeds]
    content = {
        "study": study.name,
        **({"command": command} if command else {}),
        "seeds": list(study.seeds),
        "chosen": dict(choices),
        "base_seconds": round(sum(_cpu(facts[step.marker]) for step in base) / len(base), 1),
        "training_seconds": {name: round(value, 1) for name, value in result.seconds.items()},
        "tuning_seconds": tuning,
        "validation_means": validated,
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, {threads_of(jobs)} threads a run",
        "versions": versions(),
        "commit": git_commit(),
    }
    if study.corruptions:
        written |= save_corruption(_damaged(study, plan, facts, choices, result), study.results)
    else:
        remove_corruption(study.results)
    text = json.dumps(content, indent=1, default=str)
    written["study"] = write_atomically(study.results / "study.json", f"{text}\n")
    return written


def _damaged(
    study: Study, plan: Plan, facts: Mapping[Path, Facts], choices: Mapping[str, Any], result: SweepResult
) -> CorruptionResult:
    """All methods with one network for all combinations, on damaged modalities."""
    metric, found = study.metric or result.primary_metric, CorruptionResult([], "", result.directions)
    for method in study.methods:
        if not method.swept or method.recipe.each:
            continue
        for step in plan.tests(method, (choices.get(method.name) or {}).get("value")):
            if "skipped" not in facts[step.marker]:
                found.rows += read_corruption(step.folder / "sweep").rows
    return replace(found, primary_metric=metric)


def draw(study: Study, facts: Mapping[Path, Facts], choices: Mapping[str, Any], result: SweepResult) -> list[Picture]:
    """Draw the predictions of a finished study, one picture per combination; samples are those of the first seed."""
    plan, found = Plan(study), list[Examples]()
    for method in study.methods:
        if not method.swept:
            continue
        for step in plan.sweeps(method, study.seeds[0], (choices.get(method.name) or {}).get("value"), "test"):
            one = None if "skipped" in facts[step.marker] else read_examples(step.folder / "sweep")
            if one is not None:
                own = {(method.name, study.modalities.canonical(name)): v for (_, name), v in one.predictions.items()}
                found.append(replace(one, predictions=own))
    return write_pictures(result, study.results, merge_examples(found))
