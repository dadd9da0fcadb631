"""Chooses tuned values on validation data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_mm.compare.plan import Plan, Step
from lightning_mm.compare.step_runner import Facts
from lightning_mm.errors import LightningMMError
from lightning_mm.results.files import read
from lightning_mm.results.merge import merge
from lightning_mm.results.result import SweepResult


def choose(plan: Plan, facts: Mapping[Path, Facts], chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Choose the values of tuned methods that have none yet, once their validation sweeps are finished.

    The value with the best mean over incomplete combinations of the validation split, averaged over seeds, wins; the
    first of equals.

    Args:
        plan: The plan of the study.
        facts: Marker to facts of finished steps.
        chosen: Methods that have a value.

    Returns:
        Method to ``{"key", "value", "means"}``; ``means`` holds the mean of each value.

    Raises:
        LightningMMError: If training diverged for every value, or no incomplete combination was swept.
    """
    found: dict[str, dict[str, Any]] = {}
    for method in plan.study.methods:
        if method.tuned is None or method.name in chosen:
            continue
        key, values = method.tuned
        groups = [
            [step for seed in method.tune_seeds or plan.study.seeds for step in plan.sweeps(method, seed, value, "val")]
            for value in values
        ]
        steps = [step for group in groups for step in group]
        if any(step.marker not in facts for step in steps):
            continue
        if any("skipped" in facts[step.marker] for step in steps):
            found[method.name] = {"key": key, "value": values[0], "means": {}}
            continue
        figures = [validation_mean(group) for group in groups]
        sign = 1 if figures[0][1] == "max" else -1
        ranks = [sign * mean if math.isfinite(mean) else -math.inf for mean, _ in figures]
        if max(ranks) == -math.inf:
            raise LightningMMError(
                f"{method.name}: training diverged for every value of {key} out of {list(values)}; give smaller ones"
            )
        found[method.name] = {
            "key": key,
            "value": values[ranks.index(max(ranks))],
            "means": {str(value): round(mean, 5) for value, (mean, _) in zip(values, figures)},
        }
    return found


def validation_mean(steps: Sequence[Step]) -> tuple[float, str]:
    """Mean over incomplete combinations and seeds of the sweeps of one method, and which direction is better."""
    by_seed: dict[int, list[SweepResult]] = {}
    for step in steps:
        result = read(step.folder / "sweep_val" / "sweep.csv")
        by_seed.setdefault(result.rows[0].seed, []).append(result)
    means = []
    for results in by_seed.values():
        whole = merge(results)
        values = whole.values(whole.methods[0])
        incomplete = [value for name, value in values.items() if name != whole.full_combination]
        if not incomplete:
            raise LightningMMError(f"{steps[0].method}: nothing to choose by: no incomplete combination was swept")
        means.append(sum(incomplete) / len(incomplete))
    return sum(means) / len(means), whole.direction(whole.primary_metric)
