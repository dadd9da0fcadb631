"""Executors: order, failures, and worker processes that end with their study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare import Executor, InProcess, processes, run_study
from lightning_mm.compare.executor import Perform, StepError
from lightning_mm.compare.plan import Plan, Step
from lightning_mm.errors import LightningMMError
from tests.support.studies import COMMANDS, fail, fake, read


@contextmanager
def in_process(perform: Perform) -> Iterator[Executor]:
    yield InProcess(perform)


@contextmanager
def in_one(perform: Perform) -> Iterator[Executor]:
    with processes(perform, 1) as executor:
        yield executor


@contextmanager
def in_two(perform: Perform) -> Iterator[Executor]:
    with processes(perform, 2) as executor:
        yield executor


EXECUTORS = pytest.mark.parametrize("executor", [in_process, in_one, in_two])


@EXECUTORS
def test_each_step_after_those_that_it_needs(tmp_path: Path, executor: Any) -> None:
    study = read(tmp_path, out=str(tmp_path / "out"))
    steps = Plan(study).steps({"adapted": 0.1})
    with executor(fake) as one:
        ran = [(step, facts) for step, facts in one.run(steps)]
    assert {step.marker for step, _ in ran} == {step.marker for step in steps}
    assert len(ran) == len(steps)
    for position, (step, facts) in enumerate(ran):
        assert facts["key"] == step.key
        assert {need.marker for need in step.needs} <= {before.marker for before, _ in ran[:position]}
    commands = (study.out / COMMANDS).read_text().splitlines()
    assert len(commands) == len(set(commands)) == sum(bool(step.command) for step in steps)


@EXECUTORS
def test_a_step_that_fails_is_named(tmp_path: Path, executor: Any) -> None:
    study = read(tmp_path, methods={"zero_fill": None}, out=str(tmp_path / "out"), seeds=[0])
    message = r"base/seed0: fit failed: RuntimeError: out of luck\n.*log: .*fit\.log"
    with pytest.raises(StepError, match=message), executor(fail) as one:
        run_study(study, one, str)


def fail_on_base(step: Step) -> dict[str, Any]:
    if step.method == "base":
        step.folder.mkdir(parents=True)
        (step.folder / "fit.log").write_text("".join(f"line {number}\n" for number in range(20)))
        raise RuntimeError("out of luck")
    return fake(step)


@EXECUTORS
def test_no_step_is_started_after_a_failure(tmp_path: Path, executor: Any) -> None:
    methods = {"zero_fill": None, "modality_dropout": None}
    study = read(tmp_path, methods=methods, out=str(tmp_path / "out"), seeds=[0])
    steps = Plan(study).steps({})
    with pytest.raises(StepError, match="out of luck\n    line 14\n"), executor(fail_on_base) as one:
        list(one.run(steps))
    markers = {(step.method, step.stage): step.marker.is_file() for step in steps}
    assert not markers["zero_fill", "fit"], "it needs the base"
    assert markers["modality_dropout", "fit"] == (executor is in_two), "what runs at the same time is finished"


def refuse(step: Step) -> dict[str, Any]:
    raise LightningMMError("size must be positive, got 0")


@EXECUTORS
def test_a_users_mistake_is_shown_without_the_log(tmp_path: Path, executor: Any) -> None:
    study = read(tmp_path, methods={"zero_fill": None}, out=str(tmp_path / "out"), seeds=[0])
    with pytest.raises(StepError, match=r"fit failed: size must be positive, got 0\n  log: "), executor(refuse) as one:
        run_study(study, one, str)


def killed(step: Step) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_a_worker_that_was_killed_is_told(tmp_path: Path) -> None:
    study = read(tmp_path, methods={"zero_fill": None}, out=str(tmp_path / "out"), seeds=[0])
    with pytest.raises(StepError, match=r"its process was killed \(out of memory\?\)"), processes(killed, 1) as one:
        run_study(study, one, str)


def threads(step: Step) -> dict[str, Any]:
    return {"threads": os.environ["OMP_NUM_THREADS"]}


def test_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    (step, *_) = Plan(read(tmp_path)).steps({})
    with processes(threads, 10**6) as one:
        assert [facts for _, facts in one.run([step])] == [{"threads": "1"}]
    assert os.environ["OMP_NUM_THREADS"] == "77"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_worker_ends_with_the_process_that_started_it() -> None:
    """Also if that one was killed before the worker could ask for its number."""
    code = (
        "import sys, time; from lightning_mm.compare.executor import die_with_parent; "
        "die_with_parent(1); time.sleep(60)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False)
    assert run.returncode == 1


def test_it_takes_the_processes_of_its_loaders_along() -> None:
    """They look for their parent, but one that is still starting takes the next one for it and never ends."""
    code = (
        "import sys, time; from multiprocessing import get_context; "
        "from lightning_mm.compare.executor import die_with_parent; "
        "get_context('spawn').Process(target=time.sleep, args=(60,)).start(); "
        "die_with_parent(1); time.sleep(60)"
    )
    # its output is closed when the last process that holds it has ended
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=30)
    assert run.returncode == 1, run.stderr
