"""A study as a graph of jobs: levels, what is queued, what a failure stops, and submitting again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightning_mm.cluster.graph.cells import REPORT, cells_of, levels_of
from lightning_mm.cluster.graph.folder import JobsFolder
from lightning_mm.cluster.graph.frozen import thaw
from lightning_mm.cluster.graph.prepare import prepare
from lightning_mm.cluster.graph.status import StudyStatus, open_study, status_of
from lightning_mm.cluster.graph.submit import Queue, submit_jobs
from lightning_mm.cluster.scheduler import Job
from lightning_mm.compare import InProcess, collect, run_study
from lightning_mm.compare.plan import Plan
from lightning_mm.compare.study import Study
from lightning_mm.errors import LightningMMError
from lightning_mm.results import read as read_sweep
from lightning_mm.schemas.job_settings import JobSettings
from lightning_mm.schemas.jobs import CellState
from tests.support.at_once import AtOnce, fail
from tests.support.studies import COMMANDS, fake, read

TUNED: dict[str, Any] = {"configs": ["ssf.yaml"], "tune": {"model.lr": [0.1, 0.2]}, "tune_seeds": [0]}
METHODS = {"zero_fill": None, "adapted": TUNED, "dedicated": {"combinations": ["a"]}}


def study_in(folder: Path, **content: Any) -> Study:
    where = {"out": str(folder / "out"), "results": str(folder / "report")}
    return read(folder, **{"methods": METHODS, **where, **content})


def submit(study: Study, scheduler: AtOnce, largest: int = 1000, **settings: Any) -> Queue:
    folder = prepare(study, "lightning-mm compare", JobSettings(**settings), lambda name: scheduler)
    return submit_jobs(folder, "slurm", lambda name: scheduler, largest)


def status(study: Study, scheduler: AtOnce) -> StudyStatus:
    return status_of(open_study(study.out), lambda name: scheduler)


def states(study: Study, scheduler: AtOnce) -> dict[str, str]:
    return {cell.name: cell.state for cell in status(study, scheduler).cells}


def commands(study: Study) -> list[str]:
    return (study.out / COMMANDS).read_text().splitlines()


def test_levels(tmp_path: Path) -> None:
    cells = cells_of(Plan(study_in(tmp_path)))
    names = [[cell.name for cell in level] for level in levels_of(cells)]
    assert names == [
        ["base/seed0", "base/seed1", "dedicated/a/seed0", "dedicated/a/seed1"],
        ["zero_fill/seed0", "zero_fill/seed1", "adapted/lr=0.1/seed0", "adapted/lr=0.2/seed0"],
        ["adapted/chosen/seed0", "adapted/chosen/seed1"],
    ]
    by_name = {cell.name: cell for cell in cells}
    assert by_name["adapted/chosen/seed1"].needs == ("base/seed1", "adapted/lr=0.1/seed0", "adapted/lr=0.2/seed0")
    assert [step.stage for step in by_name["adapted/lr=0.1/seed0"].steps] == ["fit", "val"]


def test_a_frozen_study_has_the_same_steps(tmp_path: Path) -> None:
    study = study_in(tmp_path, settings={"a.b": float("inf"), "c": [1, {"d": None}]}, bootstrap=7, majority=True)
    folder = prepare(study, "lightning-mm compare", JobSettings(), lambda name: AtOnce())
    frozen = thaw(folder.path, folder.study)
    assert [step.key for step in Plan(frozen).steps({})] == [step.key for step in Plan(study).steps({})]
    assert (frozen.content, frozen.bootstrap, frozen.majority) == (study.content, 7, True)
    before = Plan(study).steps({})[0].key
    (tmp_path / "base.yaml").write_text("data: {modalities: [a, b, c], batch_size: 9}\n")
    assert Plan(thaw(folder.path, folder.study)).steps({})[0].key == before != Plan(study).steps({})[0].key


def test_equals_a_study_that_was_run_here(tmp_path: Path) -> None:
    scheduler = AtOnce()
    queue = submit(study_in(tmp_path), scheduler, array_limit=2, largest=3)
    study = open_study(tmp_path / "out")
    assert scheduler.submitted == [
        ("1/level0_0", (), "0-2%2"),
        ("1/level0_1", (), "0-0%2"),
        ("1/level1_0", ("1", "2"), "0-2%2"),
        ("1/level1_1", ("1", "2"), "0-0%2"),
        ("1/level2", ("3", "4"), "0-1%2"),
        ("1/report", ("5",), None),
    ]
    assert queue.finished == 0
    assert set(states(study, scheduler).values()) == {"finished"}
    assert (tmp_path / "report/report.html").is_file()
    (tmp_path / "here").mkdir()
    here = study_in(tmp_path / "here")
    result = collect(here, *run_study(here, InProcess(fake), str))
    assert sorted(map(str, read_sweep(tmp_path / "report").rows)) == sorted(map(str, result.rows))
    assert sorted(commands(study)) == sorted(commands(here))
    assert status(study, scheduler).choices["adapted"]["value"] == 0.2

    assert submit(study_in(tmp_path), scheduler).batches == ()
    (tmp_path / "out/zero_fill/seed0/sweep/sweep.csv").unlink()
    assert [batch.name for batch in submit(study_in(tmp_path), scheduler).batches] == ["2/level1", "2/report"]


def test_a_task_that_the_queue_has_forgotten_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, scheduler = study_in(tmp_path), AtOnce()
    submit(study, scheduler)
    (tmp_path / "out/base/seed0/fit.done.json").unlink()
    JobsFolder(study.out.absolute()).write_cell("base/seed0", CellState(state="running", job="1_0"))
    killed = Job("1_0", "failed", "OUT_OF_MEMORY", 137)

    def asked(self: AtOnce, ids: list[str]) -> dict[str, Job]:
        return {"1_0": killed} if ids[0] == "1_0" else {"1_1": Job("1_1", "running", "RUNNING")}

    monkeypatch.setattr(AtOnce, "states", asked)
    found = next(cell for cell in status(study, scheduler).cells if cell.name == "base/seed0")
    assert (found.state, found.reason) == ("failed", "its job ended: OUT_OF_MEMORY, exit code 137")


def test_a_failure_stops_only_what_needs_it(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path), AtOnce()
    fail(study.out, "base/seed1 fit")
    submit(study, scheduler)
    assert states(study, scheduler) == {
        **dict.fromkeys(("base/seed0", "zero_fill/seed0", "adapted/lr=0.1/seed0", "adapted/lr=0.2/seed0"), "finished"),
        **dict.fromkeys(("dedicated/a/seed0", "dedicated/a/seed1", "adapted/chosen/seed0"), "finished"),
        **{"base/seed1": "failed", "zero_fill/seed1": "not_run", "adapted/chosen/seed1": "not_run"},
        REPORT: "not_run",
    }
    by_name = {cell.name: cell for cell in status(study, scheduler).cells}
    assert by_name["base/seed1"].reason == "RuntimeError: out of luck"
    assert by_name["base/seed1"].tail[-1] == "RuntimeError: out of luck"
    assert by_name["base/seed1"].log.endswith("base/seed1/fit.log")
    assert by_name["zero_fill/seed1"].reason == "needs base/seed1, which failed"
    assert [job.exit_code for name, job in scheduler.jobs.items() if job.state == "failed"] == [1, 3, 3, 3]
    log = (study.out / "_jobs/1/level1-1.log").read_text()
    assert "zero_fill/seed1 fit was not run: it needs base/seed1 fit, which is not finished" in log

    before = commands(study)
    fail(study.out)
    queue = submit(study, scheduler)
    assert [[cell.name for cell in batch.cells] for batch in queue.batches] == [
        ["base/seed1"],
        ["zero_fill/seed1"],
        ["adapted/chosen/seed1"],
        [],
    ]
    assert set(states(study, scheduler).values()) == {"finished"}
    assert commands(study)[len(before) :] == [
        "base/seed1 fit",
        "zero_fill/seed1 test",
        "adapted/lr=0.2/seed1 fit",
        "adapted/lr=0.2/seed1 test",
    ]


def test_a_failed_trial_keeps_the_choice_from_being_made(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path, seeds=[0]), AtOnce()
    fail(study.out, "adapted/lr=0.1/seed0 val")
    submit(study, scheduler)
    by_name = {cell.name: cell for cell in status(study, scheduler).cells}
    assert by_name["adapted/lr=0.1/seed0"].stages == {"fit": True, "val": False}
    assert by_name["adapted/chosen/seed0"].state == "not_run"
    assert by_name["adapted/chosen/seed0"].reason == "needs adapted/lr=0.1/seed0, which failed"
    fail(study.out)
    submit(study, scheduler)
    assert commands(study).count("adapted/lr=0.1/seed0 fit") == 1


def test_no_value_can_be_chosen(tmp_path: Path) -> None:
    methods = {"adapted": {**TUNED, "tune": {"model.lr": [0.7, 0.8]}}}
    study, scheduler = study_in(tmp_path, seeds=[0], methods=methods), AtOnce()
    submit(study, scheduler)
    found = status(study, scheduler).cells[-2]
    assert (found.name, found.state) == ("adapted/chosen/seed0", "failed")
    assert "training diverged for every value" in found.reason


def test_a_skipped_method_is_finished(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path, seeds=[0], methods={"bn_refit": None, "zero_fill": None}), AtOnce()
    submit(study, scheduler)
    found = {cell.name: cell for cell in status(study, scheduler).cells}
    assert found["bn_refit/seed0"].state == "finished"
    assert found["bn_refit/seed0"].reason == "no BatchNorm in this network"
    assert found[REPORT].state == "finished"


def test_what_is_queued_is_not_queued_again(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path), AtOnce(held=True)
    submit(study, scheduler)
    assert set(states(study, scheduler).values()) == {"queued"}
    assert submit(study, scheduler).batches == ()
    scheduler.cancel(["1_3"])
    queue = submit(study, scheduler)
    assert [[cell.name for cell in batch.cells] for batch in queue.batches] == [["dedicated/a/seed1"], []]
    assert scheduler.submitted[-2:] == [("2/level0", (), "0-0"), ("2/report", ("5", "1", "2", "3"), None)]
    changed = study_in(tmp_path, settings={"trainer.max_epochs": 9})
    with pytest.raises(LightningMMError, match=r"base/seed0 is queued \(job 1_0\) with other settings .* cancel its"):
        submit(changed, scheduler)


def test_more_methods_may_come_in_while_it_runs(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path), AtOnce(held=True)
    submit(study, scheduler)
    more = study_in(tmp_path, methods={**METHODS, "head_only": None})
    queue = submit(more, scheduler)
    assert [[cell.name for cell in batch.cells] for batch in queue.batches] == [
        ["head_only/seed0", "head_only/seed1"],
        [],
    ]
    assert scheduler.submitted[-2] == ("2/level1", ("1",), "0-1"), "after the bases, which are queued"


def test_finished_trainings_are_not_lost(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path), AtOnce()
    submit(study, scheduler)
    with pytest.raises(LightningMMError, match=r"finished trainings in .* give --again"):
        submit(study_in(tmp_path, settings={"trainer.max_epochs": 9}), scheduler)
    assert set(states(study, scheduler).values()) == {"finished"}


def test_a_study_that_was_not_submitted(tmp_path: Path) -> None:
    study = study_in(tmp_path, seeds=[0])
    with pytest.raises(LightningMMError, match=r"no jobs of a study in .*out; submit it"):
        open_study(study.out)
    found = status_of(open_study(tmp_path / "study.yaml"), lambda name: AtOnce())
    assert {cell.state for cell in found.cells} == {"open"}
    run_study(study, InProcess(fake), str)
    found = status_of(open_study(tmp_path / "study.yaml"), lambda name: AtOnce())
    assert {cell.state for cell in found.cells} == {"finished"}


def test_no_scheduler_to_ask(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path), AtOnce()
    fail(study.out, "base/seed1 fit")
    submit(study, scheduler)

    def silent(name: str) -> AtOnce:
        raise LightningMMError("squeue was not found")

    before = {cell.name: (cell.state, cell.reason) for cell in status(study, scheduler).cells}
    found = status_of(open_study(study.out), silent)
    assert {cell.name: (cell.state, cell.reason) for cell in found.cells} == before
    assert found.silent == {"slurm": "squeue was not found"}
    with pytest.raises(LightningMMError, match=r"squeue was not found; jobs of this study were submitted to slurm"):
        prepare(study, "", JobSettings(), silent)


def test_a_job_that_was_killed(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path), AtOnce(held=True)
    submit(study, scheduler)
    folder = JobsFolder(study.out)
    (study.out / "base/seed0").mkdir(parents=True)
    (study.out / "base/seed0/fit.log").write_text("epoch 1\repoch 2\n\nkilled here\n")
    note = CellState(state="running", step="fit", job="1_0", host="node1", time="now", restarts=2)
    folder.write_cell("base/seed0", note.model_copy(update={"log": str(study.out / "base/seed0/fit.log")}))
    scheduler.jobs["1_0"] = Job("1_0", "failed", "OUT_OF_MEMORY", 137, 2)
    scheduler.jobs["1_1"] = Job("1_1", "unknown")
    scheduler.jobs["1_2"] = Job("1_2", "failed", "FAILED", 127)
    found = {cell.name: cell for cell in status(study, scheduler).cells}
    killed = found["base/seed0"]
    assert (killed.state, killed.restarts, killed.tail) == ("failed", 2, ("epoch 2", "killed here"))
    assert killed.reason == "its job ended: OUT_OF_MEMORY, exit code 137"
    assert found["base/seed1"].state == "open"
    assert "job 1_1 is no longer known to the scheduler" in found["base/seed1"].reason
    assert found["dedicated/a/seed0"].reason == "its job ended before it began: FAILED, exit code 127"
    scheduler.jobs["1_0"] = Job("1_0", "unknown")
    found = {cell.name: cell for cell in status(study, scheduler).cells}
    assert found["base/seed0"].reason == "it ended without a word (killed? out of memory?) after now on node1"


def test_the_folder_of_jobs_damaged(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path), AtOnce(held=True)
    submit(study, scheduler)
    folder = JobsFolder(study.out)
    folder.ledger.write_text("{}")
    with pytest.raises(
        LightningMMError, match=r"ledger.json is damaged \(it lacks the keys \['folder'\]\); cancel the"
    ):
        status(study, scheduler)


def test_a_script_that_may_not_requeue_itself_submits_another_job(tmp_path: Path) -> None:
    study, scheduler = study_in(tmp_path), AtOnce(held=True)
    submit(study, scheduler)
    scheduler.jobs["1_0"] = Job("1_0", "failed", "FAILED", 75, 0)
    JobsFolder(study.out).write_cell("base/seed0", CellState(state="stopped", step="fit", job="1_0", reason="saved"))
    assert states(study, scheduler)["base/seed0"] == "failed"
    scheduler.jobs["9_0"] = Job("9_0", "running", "RUNNING")
    JobsFolder(study.out).write_cell("base/seed0", CellState(state="running", step="fit", job="9_0", restarts=1))
    found = status(study, scheduler).cells[0]
    assert (found.state, found.job, found.restarts) == ("running", "9_0", 1)


def test_a_sweep_that_was_ended_says_that_it_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, scheduler = study_in(tmp_path), AtOnce()
    submit(study, scheduler)
    (study.out / "zero_fill/seed0/test.done.json").unlink()
    number = len(scheduler.submitted) + 1
    note = CellState(state="running", step="test", job=f"{number}_0", host="node1", time="now")
    JobsFolder(study.out).write_cell("zero_fill/seed0", note)
    monkeypatch.setenv("LIGHTNING_MM_RESTARTS", "1")
    submit(study, scheduler)
    assert set(states(study, scheduler).values()) == {"finished"}
    (log,) = (study.out / "_jobs" / "2").glob("level*-0.log")
    said = "zero_fill/seed0 test was ended before, and starts anew, as only trainings go on where they were"
    assert said in log.read_text()
    assert "starts anew" not in "".join(path.read_text() for path in (study.out / "_jobs" / "1").glob("*.log"))
