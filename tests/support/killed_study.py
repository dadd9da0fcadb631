"""Runs a study whose process kills itself: ``python -m tests.support.killed_study STUDY STEP POINT``.

The points of a step: ``started``, its command is about to run; ``written``, the command has written its files;
``marking``, the marker's content is on the disk, not yet in its place; ``marked``, the study has not heard of it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from lightning_mm.compare import InProcess, read_study, run_study
from lightning_mm.compare.plan import Step
from lightning_mm.compare.step_runner import perform
from tests.support.studies import fake_command

POINTS = ("started", "written", "marking", "marked")


def main(study: str, where: str, point: str) -> None:
    """Run a study up to a point of the step whose name ends in ``where``."""
    rename = os.replace

    def kill_at(step: Step, here: str) -> None:
        if here == point and step.name.endswith(where):
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(step: Step) -> dict[str, Any]:
        def replace(source: str, target: Path) -> None:
            if target == step.marker:
                kill_at(step, "marking")
            rename(source, target)

        def run(command: list[str]) -> dict[str, Any]:
            kill_at(step, "started")
            facts = fake_command(step, command)
            kill_at(step, "written")
            return facts

        os.replace = replace  # type: ignore[assignment]
        facts = perform(step, run)
        kill_at(step, "marked")
        return facts

    run_study(read_study(study), InProcess(deadly))


if __name__ == "__main__":
    main(*sys.argv[1:])
