"""A scheduler that runs every task as soon as it is submitted, one after the other, and cells that only write files."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.cluster.graph.folder import JobsFolder
from lightning_mm.cluster.graph.frozen import thaw
from lightning_mm.cluster.graph.ranks import ranks_of
from lightning_mm.cluster.graph.run_cell import run_cell
from lightning_mm.cluster.scheduler import Job
from lightning_mm.compare.plan import Plan
from tests.support.studies import fake_command

FAIL = "fail.json"
"""File next to the folders of methods that lists ``folder stage`` of the steps that fail."""


@dataclass
class AtOnce:
    """Runs tasks; a job has ended when ``submit`` returns.

    Attributes:
        submitted: Script, jobs to wait for, and array of every job.
        held: Whether jobs stay queued instead.
    """

    submitted: list[tuple[str, tuple[str, ...], str | None]] = field(default_factory=list)
    name = "slurm"
    jobs: dict[str, Job] = field(default_factory=dict)
    held: bool = False

    def check(self, script: Path) -> None:
        assert script.is_file()

    def submit(self, script: Path, after: Sequence[str] = (), array: str | None = None) -> str:
        self.submitted.append((f"{script.parent.name}/{script.stem}", tuple(after), array))
        number = str(len(self.submitted))
        last = None if array is None else int(array.partition("%")[0].partition("-")[2])
        for task in [None] if last is None else range(last + 1):
            name = number if task is None else f"{number}_{task}"
            if self.held:
                self.jobs[name] = Job(name, "queued", "PENDING")
                continue
            code = self._run(script, number, task)
            self.jobs[name] = Job(name, "failed" if code else "finished", "FAILED" if code else "COMPLETED", code)
        return number

    @staticmethod
    def _run(script: Path, number: str, task: int | None) -> int:
        """What bash would do, in this process: there, every task would import the package."""
        variables = {"SLURM_JOB_ID": number}
        if task is not None:
            variables |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)}
        command = re.search(r"(?m)^command=\((.*)\)$", script.read_text())
        assert command is not None
        words = shlex.split(command[1].replace("$LIGHTNING_MM_TASK", str(task)))
        log = script.with_name(f"{script.stem}{'' if task is None else f'-{task}'}.log")
        with pytest.MonkeyPatch.context() as patch, log.open("w") as file:
            for name, value in variables.items():
                patch.setenv(name, value)
            # the log of a step gets what is written to file number 2, which pytest's own streams do not use
            with redirect_stdout(file), redirect_stderr(sys.__stderr__):
                return main(words[words.index("cell") :])

    def states(self, ids: Sequence[str]) -> dict[str, Job]:
        return {name: job for name, job in self.jobs.items() if {name, name.partition("_")[0]} & {*ids}}

    def cancel(self, ids: Sequence[str]) -> None:
        for name in self.states(ids):
            self.jobs[name] = Job(name, "cancelled", "CANCELLED")


def fail(study: Path, *steps: str) -> None:
    """Let steps, such as ``base/seed0 fit``, fail from now on, and no others."""
    study.mkdir(parents=True, exist_ok=True)
    (study / FAIL).write_text(json.dumps(steps))


def main(words: list[str]) -> int:
    """What ``lightning-mm cell`` does, with commands that only write files."""
    folder = JobsFolder(Path(words[1]))
    if words[2] == "report":
        from lightning_mm.cli.cluster.cell import write_report_of

        return write_report_of(folder)
    name = folder.read_tasks(words[2])[int(words[3])]
    plan = Plan(thaw(folder.path, folder.study))

    def run(command: list[str]) -> dict[str, Any]:
        step = plan.steps({})[0]
        if "--print_config" not in command:
            place = Path(command[command.index("-c") + 1]).parent
            stage: Any = "fit" if command[0] == "fit" else command[command.index("--split") + 1]
            cell = str(place.relative_to(folder.study))
            step = replace(step, folder=place, stage=stage, method=cell.partition("/")[0])
            broken = json.loads((folder.study / FAIL).read_text()) if (folder.study / FAIL).is_file() else []
            if f"{cell} {stage}" in broken:
                raise RuntimeError("out of luck")
        return fake_command(step, command)

    return run_cell(folder, name, run, ranks_of(folder.path / "ranks"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
