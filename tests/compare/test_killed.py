"""A study that is killed at any point of any step ends, run again, with the same results as one that is not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_mm.compare import InProcess, collect, read_study, run_study
from tests.support.killed_study import POINTS
from tests.support.repository import REPOSITORY
from tests.support.studies import COMMANDS, fake, write_study

STEPS = ("base/seed1: fit", "zero_fill/seed0: fit", "adapted/lr=0.1/seed0: val", "adapted/lr=0.2/seed1: test")


def finish(study: Path) -> list[object]:
    """Run a study to its end; all that its tables show."""
    read = read_study(study)
    facts, choices = run_study(read, InProcess(fake), str)
    result = collect(read, facts, choices)
    assert not list(read.out.rglob("*.part"))
    return [result.rows, result.parameters, result.seconds, result.notes, choices]


def new_study(folder: Path) -> Path:
    folder.mkdir()
    return write_study(folder, name="killed", out=str(folder / "out"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], list[str]]:
    """Results and commands of a study that was not killed."""
    study = new_study(tmp_path_factory.mktemp("whole") / "study")
    return finish(study), (study.parent / "out" / COMMANDS).read_text().splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("step", STEPS)
def test_killed(step: str, point: str, tmp_path: Path, whole: tuple[list[object], list[str]]) -> None:
    study = new_study(tmp_path / "study")
    command = [sys.executable, "-m", "tests.support.killed_study", str(study), step, point]
    run = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=False)
    untrained = step.startswith("zero_fill") and point == "written"  # its config is made, no command is run
    assert run.returncode == (0 if untrained else -signal.SIGKILL)
    assert finish(study) == whole[0]
    ran = (study.parent / "out" / COMMANDS).read_text().splitlines()
    repeated = [step.replace(":", "")] if point in ("written", "marking") and not step.startswith("zero_fill") else []
    assert sorted(ran) == sorted([*whole[1], *repeated]), "only the killed step is run again"
