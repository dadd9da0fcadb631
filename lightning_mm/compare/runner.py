"""Runs a study: its steps, then those that follow from a choice on validation data."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_mm.compare.choice import choose
from lightning_mm.compare.executor import Executor
from lightning_mm.compare.plan import Plan
from lightning_mm.compare.step_runner import LOCK, Facts, all_finished, finished
from lightning_mm.compare.study import Study
from lightning_mm.errors import LightningMMError
from lightning_mm.files import lock, write_atomically
from lightning_mm.provenance import STUDY


def run_study(
    study: Study, executor: Executor, say: Callable[[str], object] = print, again: bool = False
) -> tuple[dict[Path, Facts], dict[str, Any]]:
    """Run every step that is not finished yet.

    Args:
        study: What to run.
        executor: Performs the steps.
        say: Receives a line for every finished step and every choice.
        again: Whether finished runs whose settings have changed may be deleted and run again.

    Returns:
        Marker to facts of all steps, and tuned method to the chosen value with the figures it was chosen by.

    Raises:
        StepError: If a step fails.
        LightningMMError: If another process works on this study, or finished runs would be deleted.
    """
    choices: dict[str, Any] = {}
    with lock(study.out / LOCK, "wait for it, or give another folder with --out"), named(study):
        plan = Plan(with_copies(study))
        if not again:
            check_nothing_is_lost(plan)
        while True:
            steps = plan.steps({name: choice["value"] for name, choice in choices.items()})
            facts = all_finished(steps)
            for step, found in executor.run([step for step in steps if step.marker not in facts]):
                facts[step.marker] = found
                took = found.get("command_seconds")
                say(
                    f"[{len(facts)}/{len(steps)}] {step.folder.relative_to(study.out)} {step.stage}"
                    + (f" {took:.0f} s" if took else f" {found.get('skipped', '')}")
                )
            new = choose(plan, facts, choices)
            if not new:
                return facts, choices
            choices.update(new)
            for name, choice in new.items():
                say(f"{name}: {choice['key']} = {choice['value']}, chosen on validation data: {choice['means']}")


def check_nothing_is_lost(plan: Plan) -> None:
    """Refuse to replace finished trainings with other settings, which may have taken days."""
    changed = [step for step in plan.steps({}) if step.stage == "fit" and step.command and step.marker.is_file()]
    changed = [step for step in changed if finished(step) is None]
    if changed:
        raise LightningMMError(
            f"{len(changed)} finished trainings in {plan.study.out} have other settings than the study asks for now, "
            f"{changed[0].folder.relative_to(plan.study.out)} for one; give --again to delete and repeat them, or "
            "another folder with --out"
        )


def with_copies(study: Study) -> Study:
    """The study with copies of its config files, so that editing one while it runs changes nothing half way."""
    folder = study.out / "configs"

    def copies(paths: tuple[Path, ...]) -> tuple[Path, ...]:
        made = []
        for path in paths:
            if path.absolute().parent == folder.absolute():  # a copy already
                made.append(path)
                continue
            content = path.read_bytes()
            place = folder / f"{path.stem}-{zlib.crc32(content):08x}{path.suffix}"
            if not place.is_file():
                write_atomically(place, content)
            made.append(place)
        return tuple(made)

    methods = tuple(replace(method, configs=copies(method.configs)) for method in study.methods)
    return replace(study, configs=copies(study.configs), methods=methods)


@contextmanager
def named(study: Study) -> Iterator[None]:
    """Tell the commands of a study its name, which groups those of their runs that Weights & Biases records."""
    before = os.environ.get(STUDY)
    os.environ[STUDY] = study.name
    try:
        yield
    finally:
        if before is None:
            del os.environ[STUDY]
        else:
            os.environ[STUDY] = before
