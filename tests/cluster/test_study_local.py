"""A study through the queue of this machine: the same jobs, the same status."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import pytest

from lightning_mm.cli import main
from lightning_mm.cluster.graph.cells import REPORT
from lightning_mm.cluster.graph.prepare import prepare
from lightning_mm.cluster.graph.status import open_study, status_of
from lightning_mm.cluster.graph.submit import submit_jobs
from lightning_mm.cluster.local.queue import Local
from lightning_mm.cluster.schedulers import scheduler_of
from lightning_mm.schemas.job_settings import JobSettings
from tests.support.at_once import fail
from tests.support.repository import REPOSITORY
from tests.support.studies import COMMANDS, read

COMMAND = shlex.join([sys.executable, "-m", "tests.support.at_once"])


def wait(out: Path, seconds: float = 60) -> dict[str, str]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        states = {cell.name: cell.state for cell in status_of(open_study(out), scheduler_of).cells}
        if not {"queued", "running"} & {*states.values()}:
            return states
        time.sleep(0.2)
    raise AssertionError(states)


@pytest.mark.slow
def test_a_study_in_the_queue_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LIGHTNING_MM_NO_TYPE_HOOK", "1")
    monkeypatch.chdir(REPOSITORY)
    methods = {"zero_fill": None}
    where = {"out": str(tmp_path / "out"), "results": str(tmp_path / "report")}
    study = read(tmp_path, seeds=[0], methods=methods, **where)
    settings = JobSettings.model_validate({"command": COMMAND})
    fail(study.out, "base/seed0 fit")
    folder = prepare(study, "", settings, scheduler_of)
    submit_jobs(folder, Local.name, lambda name: scheduler_of(name, jobs=2), 1000)
    assert wait(study.out) == {"base/seed0": "failed", "zero_fill/seed0": "not_run", REPORT: "not_run"}
    assert main(["status", str(study.out)]) == 0
    said = capsys.readouterr().out
    assert "failed     base/seed0 fit (job 1_0): RuntimeError: out of luck" in said
    assert "not run    zero_fill/seed0: needs base/seed0, which failed" in said
    fail(study.out)
    assert main(["resubmit", str(tmp_path / "study.yaml"), "--array_limit", "1"]) == 0
    assert set(wait(study.out).values()) == {"finished"}
    assert (study.out / COMMANDS).read_text().splitlines() == ["base/seed0 fit", "zero_fill/seed0 test"]
    assert (tmp_path / "report" / "report.html").is_file()
    assert main(["status", str(study.out)]) == 0
    assert "report: " in capsys.readouterr().out


def test_cancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    study = read(tmp_path, seeds=[0], methods={"zero_fill": None}, out=str(tmp_path / "out"))
    settings = JobSettings.model_validate({"command": "bash -c 'sleep 60'"})
    submit_jobs(prepare(study, "", settings, scheduler_of), Local.name, scheduler_of, 1000)
    assert main(["cancel", str(study.out)]) == 0
    assert capsys.readouterr().out == "cancelled: 3, 2, 1\n"
    assert wait(study.out) == {"base/seed0": "cancelled", "zero_fill/seed0": "cancelled", REPORT: "not_run"}
    assert main(["status", str(study.out), "--failed"]) == 0
    assert "cancelled  base/seed0 (job 1_0)" in capsys.readouterr().out
