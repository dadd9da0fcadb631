"""The cells of a study as a graph: one cell per network, with all of its steps, and what it needs.

A tuned method has a cell per value and seed, which trains and sweeps the validation split, and one per seed named
``METHOD/chosen/seedK``, whose steps are known when those have finished: the test sweep of the chosen value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_mm.compare.choice import choose
from lightning_mm.compare.plan import Plan, Step
from lightning_mm.compare.step_runner import Facts, all_finished, finished
from lightning_mm.errors import LightningMMError

CHOSEN = "chosen"
REPORT = "report"
"""The name of the last job in the place of a cell: tables, report and record of the finished study."""


@dataclass(frozen=True)
class Cell:
    """What one task of a job runs.

    Args:
        name: Its folder inside that of the study, or ``METHOD/chosen/seedK``.
        steps: Its steps, each after those that it needs; for a choice none are known before.
        needs: Names of the cells that some of its steps need.
        method: The tuned method whose test sweeps it runs, if it is such a cell.
        seed: The seed of those.
    """

    name: str
    steps: tuple[Step, ...]
    needs: tuple[str, ...]
    method: str | None = None
    seed: int = 0


def cells_of(plan: Plan) -> list[Cell]:
    """List the cells of a study, each after those that it needs."""
    grouped: dict[Path, list[Step]] = {}
    for step in plan.steps({}):
        grouped.setdefault(step.folder, []).append(step)
    names = {folder: str(folder.relative_to(plan.study.out)) for folder in grouped}
    found: dict[str, Cell] = {}

    def add(folder: Path) -> None:
        if names[folder] in found:
            return
        needed = dict.fromkeys(need.folder for step in grouped[folder] for need in step.needs if need.folder != folder)
        for other in needed:
            add(other)
        found[names[folder]] = Cell(names[folder], tuple(grouped[folder]), tuple(names[other] for other in needed))

    for folder in grouped:
        add(folder)
    for method in plan.study.methods:
        if method.tuned is None:
            continue
        trials = [step.folder for seed in plan.study.seeds for step in plan.validation(method, seed)]
        for seed in plan.study.seeds:
            # what the chosen value is trained from: with a seed that does not choose, that is still to be done
            fits = [test.needs[0] for test in plan.sweeps(method, seed, method.tuned[1][0], "test")]
            starts = [need.folder for fit in fits for need in fit.needs]
            needs = tuple(names[folder] for folder in dict.fromkeys((*starts, *trials)))
            name = f"{method.name}/{CHOSEN}/seed{seed}"
            found[name] = Cell(name, (), needs, method.name, seed)
    return list(found.values())


def levels_of(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells by the longest way to them: those of a level need only cells of the levels before."""
    depth: dict[str, int] = {}
    for cell in cells:
        depth[cell.name] = 1 + max((depth[name] for name in cell.needs), default=-1)
    count = max(depth.values(), default=-1) + 1
    return [[cell for cell in cells if depth[cell.name] == level] for level in range(count)]


@dataclass(frozen=True)
class Progress:
    """What the markers say of a study.

    Args:
        plan: The plan of the study.
        facts: Marker to facts of the steps that are finished together with all that they need.
        steps: Cell to its steps; ``None`` if they follow from a choice that cannot be made yet.
        choices: Tuned method to the chosen value with the figures it was chosen by.
        hopeless: Tuned method to why no value can be chosen: training diverged for all of them.
    """

    plan: Plan
    facts: Mapping[Path, Facts]
    steps: Mapping[str, tuple[Step, ...] | None]
    choices: Mapping[str, Any]
    hopeless: Mapping[str, str]

    def is_finished(self, cell: Cell) -> bool:
        """Whether all steps of a cell are finished."""
        steps = self.steps[cell.name]
        return steps is not None and all(step.marker in self.facts for step in steps)

    def skipped(self, cell: Cell) -> str:
        """Why a finished cell was skipped, if it was."""
        found = (self.facts.get(step.marker, {}) for step in self.steps[cell.name] or ())
        return next((str(facts["skipped"]) for facts in found if "skipped" in facts), "")


def progress_of(plan: Plan, cells: Sequence[Cell]) -> Progress:
    """Read the markers of a study.

    Args:
        plan: The plan of the study.
        cells: Its cells, or some of them with those that they need.
    """
    facts = all_finished([step for cell in cells for step in cell.steps])
    choices: dict[str, Any] = {}
    hopeless: dict[str, str] = {}
    for name in dict.fromkeys(cell.method for cell in cells if cell.method is not None):
        others = {method.name: None for method in plan.study.methods if method.name != name}
        try:
            choices |= choose(plan, facts, others)
        except LightningMMError as error:
            hopeless[name] = str(error)
    steps: dict[str, tuple[Step, ...] | None] = {}
    for cell in cells:
        steps[cell.name] = cell.steps
        if cell.method is not None:
            steps[cell.name] = chosen = _chosen(plan, cell, choices.get(cell.method))
            for step in chosen or ():
                found = finished(step) if all(need.marker in facts for need in step.needs) else None
                if found is not None:
                    facts[step.marker] = found
    return Progress(plan, facts, steps, choices, hopeless)


def _chosen(plan: Plan, cell: Cell, choice: Mapping[str, Any] | None) -> tuple[Step, ...] | None:
    """The training and the test sweep of the chosen value; it was not trained yet with seeds that do not choose."""
    if choice is None:
        return None
    tests = plan.sweeps(plan.study.method(str(cell.method)), cell.seed, choice["value"], "test")
    return tuple(step for test in tests for step in (*test.needs, test))
