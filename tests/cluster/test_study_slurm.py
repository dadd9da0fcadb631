"""A study through a real Slurm: the files of `compare`, a failure, and what runs again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lightning_mm.cli import main
from lightning_mm.cluster.graph.cells import REPORT
from lightning_mm.cluster.graph.status import open_study, status_of
from lightning_mm.cluster.schedulers import scheduler_of
from lightning_mm.compare import Executor, InProcess
from lightning_mm.compare.executor import Perform
from tests.support.fail_cell import FAIL_CELLS
from tests.support.repository import REPOSITORY
from tests.support.study_files import without_times

STUDY = """
name: tiny
config: [{scenes}/base.yaml, callbacks.yaml]
seeds: [0]
bootstrap: 20
settings:
  data.dataset.init_args.size: 32
  data.dataset.init_args.test_length: 8
  data.batch_size: 4
  trainer.max_epochs: 1
  trainer.limit_train_batches: 2
  trainer.limit_val_batches: 1
methods:
  zero_fill:
  adapted:
    configs: [{scenes}/ssf.yaml, adapted.yaml]
    tune: {{model.init_args.optimizer.init_args.lr: [0.01, 0.03]}}
"""
CALLBACKS = """
trainer:
  callbacks:
  - class_path: tests.support.fail_cell.FailCell
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}", filename: best, enable_version_counter: false}
"""
ADAPTER = "  - class_path: lightning_mm.callbacks.FrozenBackboneAdapter\n"


@contextmanager
def in_process(perform: Perform, jobs: int) -> Iterator[Executor]:
    """Without worker processes, each of which would import Lightning."""
    yield InProcess(perform)


def wait_for_the_last_job(out: Path, seconds: float = 600) -> dict[str, str]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        states = {cell.name: cell.state for cell in status_of(open_study(out), scheduler_of).cells}
        if not {"queued", "running"} & {*states.values()}:
            return states
        time.sleep(1)
    raise AssertionError(states)


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_study_through_slurm_is_that_of_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.format(scenes=REPOSITORY / "experiments" / "scenes"))
    (tmp_path / "callbacks.yaml").write_text(CALLBACKS)
    first = "  - class_path: lightning.pytorch.callbacks.ModelCheckpoint"
    (tmp_path / "adapted.yaml").write_text(CALLBACKS.replace(first, ADAPTER + first))
    (tmp_path / "fail.txt").write_text("adapted/lr=0.03/seed0")
    for name, value in ((FAIL_CELLS, str(tmp_path / "fail.txt")), ("PYTHONPATH", str(REPOSITORY))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LIGHTNING_MM_NO_TYPE_HOOK", "1")

    def compare(name: str) -> list[str]:
        out, results = str(tmp_path / name), str(tmp_path / f"{name}_report")
        return ["compare", "-c", str(tmp_path / "study.yaml"), "--out", out, "--results", results]

    resources = ["--time", "10", "--array_limit", "2"]
    assert main(["submit", "slurm", *resources, "--", *compare("there")]) == 0
    capsys.readouterr()
    there = tmp_path / "there"
    assert wait_for_the_last_job(there) == {
        **dict.fromkeys(("base/seed0", "zero_fill/seed0", "adapted/lr=0.01/seed0"), "finished"),
        **{"adapted/lr=0.03/seed0": "failed", "adapted/chosen/seed0": "not_run", REPORT: "not_run"},
    }
    assert main(["status", str(there), "--failed"]) == 0
    said = capsys.readouterr().out
    assert "adapted/lr=0.03/seed0 fit (job" in said
    assert "RuntimeError: this cell was made to fail" in said
    assert "not run    adapted/chosen/seed0: needs adapted/lr=0.03/seed0, which failed" in said
    assert main(["status", str(there), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["study"] == "tiny"

    markers = {path: path.stat().st_mtime_ns for path in there.rglob("*.done.json")}
    (tmp_path / "fail.txt").write_text("")
    assert main(["resubmit", str(there)]) == 0
    said = capsys.readouterr().out
    assert [line.split()[2:5] for line in said.splitlines() if line.startswith("job")] == [
        ["level1", "1", "cell:"],
        ["level2", "1", "cell:"],
        ["report", "tables,", "report"],
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:  # while the jobs run
        monkeypatch.setattr("lightning_mm.compare.processes", in_process)
        assert main(compare("here")) == 0
    finally:
        torch.set_num_threads(threads)
    assert set(wait_for_the_last_job(there).values()) == {"finished"}
    assert {path: path.stat().st_mtime_ns for path in markers} == markers, "what was finished was not run again"
    assert without_times(tmp_path / "there_report") == without_times(tmp_path / "here_report")

    assert main(["resubmit", str(there)]) == 0
    assert "5 cells; 5 are finished" in capsys.readouterr().out
    assert main(["cancel", str(there)]) == 0
    assert "nothing is queued or running" in capsys.readouterr().out
