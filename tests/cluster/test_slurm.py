"""Slurm's answers, from a real one and from texts of real ones."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lightning_mm.cluster import slurm as module
from lightning_mm.cluster.limits import beyond, too_short
from lightning_mm.cluster.scheduler import Job, Scheduler
from lightning_mm.cluster.slurm import Slurm
from lightning_mm.errors import LightningMMError

if TYPE_CHECKING:
    from collections.abc import Callable


def script(folder: Path, body: str, *options: str) -> Path:
    path = folder / "job.sh"
    lines = ["#!/bin/bash", *(f"#SBATCH {one}" for one in ("--time=2", "--output=/dev/null", *options)), body]
    path.write_text("\n".join(lines) + "\n")
    return path


def wait_for(ids: list[str], until: Callable[[dict[str, Job]], bool], seconds: float = 60) -> dict[str, Job]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = Slurm().states(ids)
        if until(found):
            return found
        time.sleep(0.3)
    raise AssertionError(found)


def answers(monkeypatch: pytest.MonkeyPatch, **texts: tuple[int, str, str]) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        code, out, err = texts[command[0]]
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(module.subprocess, "run", run)


def test_is_a_scheduler() -> None:
    assert isinstance(Slurm(), Scheduler)


def test_no_slurm_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LightningMMError, match=r"sbatch was not found on the PATH.*submit local"):
        Slurm().check(tmp_path / "job.sh")


@pytest.mark.parametrize(
    ("line", "job"),
    [
        ("7|COMPLETED|0:0|None", Job("7", "finished", "COMPLETED", 0, 0)),
        ("7|CANCELLED by 1000|0:15|None", Job("7", "cancelled", "CANCELLED", 143, 0, signal=15)),
        ("7|FAILED|3:0|JobArrayTaskLimit", Job("7", "failed", "FAILED", 3, 0)),
        (
            "7|REQUEUED|75:0|None\n7|PENDING|0:0|BeginTime",
            Job("7", "queued", "PENDING", None, 1, "BeginTime", ("REQUEUED",)),
        ),
        (
            "7|NODE_FAIL|1:0|None\n7|PREEMPTED|0:0|None\n7|RUNNING|0:0|x",
            Job("7", "running", "RUNNING", None, 2, "", ("NODE_FAIL", "PREEMPTED")),
        ),
        ("7|SOMETHING_NEW|0:0|None", Job("7", "unknown", "SOMETHING_NEW", None, 0)),
        ("", Job("7", "unknown")),
    ],
)
def test_reads_accounting(line: str, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, squeue=(1, "", "slurm_load_jobs error: Invalid job id specified"), sacct=(0, line, ""))
    assert Slurm().states(["7"]) == {"7": job}


def test_accounting_says_why_a_job_was_queued_again(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = "".join(f"{text:48}" for text in ("7", "RUNNING", "None", "0", "1"))
    answers(monkeypatch, squeue=(0, queue, ""), sacct=(0, "7|NODE_FAIL|0:0|None\n7|RUNNING|0:0|None", ""))
    assert Slurm().states(["7"]) == {"7": Job("7", "running", "RUNNING", None, 1, "", ("NODE_FAIL",))}
    answers(monkeypatch, squeue=(0, queue, ""), sacct=(1, "", "accounting storage is disabled"))
    assert Slurm().states(["7"]) == {"7": Job("7", "running", "RUNNING", None, 1)}


def test_accounting_knows_tasks_that_the_queue_has_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = "".join(f"{text:48}" for text in ("7_1", "RUNNING", "None", "0", "0"))
    answers(monkeypatch, squeue=(0, queue, ""), sacct=(0, "7_0|OUT_OF_MEMORY|0:125|None\n7_1|RUNNING|0:0|None", ""))
    running = Job("7_1", "running", "RUNNING", None, 0)
    assert Slurm().states(["7"]) == {"7_1": running}
    assert Slurm().states(["7_0", "7_1"]) == {
        "7_0": Job("7_0", "failed", "OUT_OF_MEMORY", 253, 0, signal=125),
        "7_1": running,
    }


@pytest.mark.parametrize(
    ("pair", "status", "words"),
    [
        ("0:0", 0, ""),
        ("3:0", 3 << 8, "exit code 3"),
        ("0:9", 9, "signal 9 (SIGKILL)"),
        ("0:125", 125, "signal 125 (out of memory)"),
        ("0:110", 110, "signal 110 (of the scheduler)"),
    ],
)
def test_a_signal_is_shown_as_one(pair: str, status: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, squeue=(1, "", "Invalid job id"), sacct=(0, f"7|FAILED|{pair}|None", ""))
    assert Slurm().states(["7"])["7"].ended_with == words
    answers(monkeypatch, squeue=(0, "".join(f"{text:48}" for text in ("7", "FAILED", "None", str(status), "0")), ""))
    assert Slurm().states(["7"])["7"].ended_with == words


def test_without_accounting_old_jobs_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, squeue=(1, "", "Invalid job id specified"), sacct=(1, "", "accounting storage is disabled"))
    assert Slurm().states(["7", "8_1"]) == {"7": Job("7", "unknown"), "8_1": Job("8_1", "unknown")}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "sbatch: error: invalid partition specified: x\nallocation failure: Invalid partition name specified",
            "`sinfo`",
        ),
        ("allocation failure: Invalid account or account/partition combination specified", "--"),
        ("allocation failure: Requested node configuration is not available", "no node of the partition"),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", "does not answer"),
        ("", "exit code 1, without a word"),
    ],
)
def test_a_refusal_says_what_to_do(said: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, sbatch=(1, "", said))
    with pytest.raises(LightningMMError) as caught:
        Slurm().check(Path("job.sh"))
    assert expected in str(caught.value)
    assert "sbatch: error" not in str(caught.value)
    assert "nothing was queued" in str(caught.value)


def test_the_id_is_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, sbatch=(0, "Welcome, 12 jobs wait\n345;alpha\n", ""))
    assert Slurm().submit(Path("job.sh")) == "345"


def test_a_job_submitted_from_a_job_starts_its_own_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def run(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, "345\n", "")

    counts = ("SLURM_RESTART_COUNT", "LIGHTNING_MM_RESTARTS", "LIGHTNING_MM_TASK")
    for name in (*counts, "SLURM_CONF"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setattr(module.subprocess, "run", run)
    Slurm().submit(Path("job.sh"))
    assert [name for name in (*counts, "SLURM_CONF") if name in seen] == ["SLURM_CONF"]


MAIN = "PartitionName=main Default=YES MaxNodes=4 MaxTime=1-00:00:00 MinNodes=0 Nodes=node[1-9]\n"
LONG = "PartitionName=long Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0\n"


@pytest.mark.parametrize(
    ("options", "partitions", "problem"),
    [
        (["--time=1440", "--nodes=4"], MAIN, ""),
        (["--time=24:00:01"], MAIN, "partition main has a time limit of 1-00:00:00, got --time 24:00:01"),
        (["--time=1-01"], MAIN, "partition main has a time limit of 1-00:00:00, got --time 1-01"),
        (["--nodes=5"], MAIN, "partition main gives a job at most 4 nodes, got --nodes 5"),
        (["--time=9-00", "--nodes=5"], f"{MAIN}\n{LONG}", ""),
        (["--time=9-00", "--qos=long"], MAIN, ""),
        (["--time=9-00"], "", ""),
    ],
)
def test_finds_what_a_partition_never_allows(options: list[str], partitions: str, problem: str, tmp_path: Path) -> None:
    assert beyond(script(tmp_path, "true", *options).read_text(), partitions) == problem


@pytest.mark.parametrize(
    ("options", "is_short"),
    [
        (["--time=3", "--signal=B:USR2@120"], True),
        (["--time=0:03:01", "--signal=B:USR2@120"], False),
        (["--time=2", "--signal=B:USR2@30"], False),
        (["--time=1", "--signal=B:USR1@30"], True),
        (["--time=1"], False),
        (["--signal=B:USR2@120"], False),
    ],
)
def test_finds_a_time_that_ends_before_it_begins(options: list[str], is_short: bool, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("\n".join(f"#SBATCH {one}" for one in options))
    found = too_short((tmp_path / "job.sh").read_text())
    assert ("leaves nothing to train: Slurm warns" in found) == is_short


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_checks_submits_and_cancels(tmp_path: Path) -> None:
    slurm = Slurm()
    with pytest.raises(LightningMMError, match=r"[Ii]nvalid partition.*`sinfo` lists"):
        slurm.check(script(tmp_path, "true", "--partition=nope"))
    with pytest.raises(LightningMMError, match=r"for ever: partition main has a time limit of 01:00:00, got --time 61"):
        slurm.check(script(tmp_path, "true", "--time=61"))
    slurm.check(script(tmp_path, "true"))
    tasks = slurm.submit(script(tmp_path, "exit $((3 * SLURM_ARRAY_TASK_ID))"), array="0-2%2")
    waiting = slurm.submit(script(tmp_path, "sleep 100"), after=[tasks])
    gone = "999999"
    found = wait_for([tasks, waiting, gone], lambda jobs: jobs.get(waiting, Job("", "unknown")).state == "running")
    codes = {key.removeprefix(f"{tasks}_"): (job.state, job.exit_code) for key, job in found.items() if "_" in key}
    assert codes == {"0": ("finished", 0), "1": ("failed", 3), "2": ("failed", 6)}
    assert found[gone] == Job(gone, "unknown")
    assert set(slurm.states([f"{tasks}_1"])) == {f"{tasks}_1"}
    slurm.cancel([waiting, gone])
    wait_for([waiting], lambda jobs: jobs[waiting].state == "cancelled")
    slurm.cancel([waiting])
