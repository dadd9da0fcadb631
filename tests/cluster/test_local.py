"""The queue of this machine: order, limits, restarts, cancelling, and what becomes of a job whose keeper is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_mm.cluster.local.folder import CAN_RUN, JobFolder, forget_old
from lightning_mm.cluster.local.queue import Local, tasks_of
from lightning_mm.cluster.scheduler import Job, Scheduler
from lightning_mm.errors import LightningMMError

pytestmark = pytest.mark.skipif(not CAN_RUN, reason="needs bash and a Unix")


@pytest.fixture
def queue(tmp_path: Path) -> Local:
    return Local(jobs=2, folder=tmp_path / "queue")


def script(folder: Path, body: str, name: str = "job.sh", *options: str) -> Path:
    path = folder / name
    lines = ["#!/bin/bash", f"#SBATCH --output={folder}/%j_%a.log", *(f"#SBATCH {one}" for one in options)]
    path.write_text("\n".join([*lines, f"cd {folder}", body]) + "\n")
    return path


def wait_for(queue: Local, ids: list[str], until: Callable[[dict[str, Job]], bool]) -> dict[str, Job]:
    end = time.monotonic() + 40
    while time.monotonic() < end:
        found = queue.states(ids)
        if until(found):
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def ended(found: dict[str, Job]) -> bool:
    return all(job.state in ("finished", "failed", "cancelled") for job in found.values())


def started(found: dict[str, Job]) -> bool:
    return all(job.state == "running" for job in found.values())


def test_is_a_scheduler(queue: Local) -> None:
    assert isinstance(queue, Scheduler)


def test_running_jobs_have_gpus_of_their_own(queue: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    body = 'echo "$CUDA_VISIBLE_DEVICES" >"$1"; sleep 0.7'
    waits = body.replace("sleep 0.7", "until [ -s share ]; do sleep 0.1; done")
    two = queue.submit(script(tmp_path, body.replace("$1", "two"), "two.sh", "--gpus-per-node=2"))
    other = queue.submit(script(tmp_path, waits.replace("$1", "other"), "other.sh", "--gres=gpu:a100:2"))
    share = queue.submit(script(tmp_path, body.replace("$1", "share"), "share.sh"))
    seen: set[tuple[str, ...]] = set()

    def look(found: dict[str, Job]) -> bool:
        seen.add(tuple(key for key, job in found.items() if job.state == "running"))
        return ended(found)

    wait_for(queue, [two, other, share], look)
    assert (tmp_path / "two").read_text() == "3,5\n"
    assert (tmp_path / "other").read_text() == "3,5\n", "it waits for two GPUs that no other job has"
    assert (tmp_path / "share").read_text() == "7\n", "an equal share among two jobs"
    assert (two, other) not in seen
    with pytest.raises(LightningMMError, match=r"this machine has 3 GPUs .*, got --gpus_per_node 4"):
        queue.check(script(tmp_path, "true", "four.sh", "--gpus-per-node=4"))


def test_runs_one_after_the_other(queue: Local, tmp_path: Path) -> None:
    first = queue.submit(script(tmp_path, "sleep 0.5; echo first >>order; echo said; exit 4"))
    last = queue.submit(script(tmp_path, "echo last >>order", "last.sh"), after=[first])
    assert queue.states([last])[last].state == "queued"
    found = wait_for(queue, [first, last], ended)
    assert found[first] == Job(first, "failed", "FAILED", 4, 0)
    assert found[last] == Job(last, "finished", "COMPLETED", 0, 0)
    assert (tmp_path / "order").read_text() == "first\nlast\n"
    assert (tmp_path / f"{first}_.log").read_text() == "said\n"


def test_no_more_than_allowed_at_once(queue: Local, tmp_path: Path) -> None:
    body = "touch on-$LIGHTNING_MM_TASK; ls on-* | wc -l >>counts; sleep 0.4; rm on-$LIGHTNING_MM_TASK"
    ids = [queue.submit(script(tmp_path, body), array="0-3"), queue.submit(script(tmp_path, body), array="7,8%1")]
    found = wait_for(queue, ids, ended)
    assert list(found) == [*(f"{ids[0]}_{task}" for task in range(4)), f"{ids[1]}_7", f"{ids[1]}_8"]
    assert {job.state for job in found.values()} == {"finished"}
    assert max(map(int, (tmp_path / "counts").read_text().split())) == 2


def test_starts_again_what_asks_for_it(queue: Local, tmp_path: Path) -> None:
    job = queue.submit(script(tmp_path, "n=$LIGHTNING_MM_RESTARTS; echo $n; [ $n = 2 ] || exit 75"))
    assert wait_for(queue, [job], ended)[job] == Job(job, "finished", "COMPLETED", 0, 2)
    assert (tmp_path / f"{job}_.log").read_text() == "0\n1\n2\n"


def test_cancels(queue: Local, tmp_path: Path) -> None:
    running = queue.submit(script(tmp_path, "trap 'echo asked; exit 143' TERM\necho on\nsleep 60 & wait"))
    waiting = queue.submit(script(tmp_path, "touch never", "waits.sh"), after=[running])
    log = tmp_path / f"{running}_.log"
    wait_for(queue, [running], lambda found: started(found) and log.is_file() and "on" in log.read_text())
    queue.cancel([waiting])
    wait_for(queue, [waiting], ended)
    queue.cancel([running, "99"])
    found = wait_for(queue, [running, waiting], ended)
    assert found[running] == Job(running, "cancelled", "CANCELLED", 143, 0)
    assert found[waiting] == Job(waiting, "cancelled", "CANCELLED", None, 0)
    assert log.read_text() == "on\nasked\n"
    assert not (tmp_path / "never").exists()
    assert not queue.cancel([running])


def test_cancels_one_task(queue: Local, tmp_path: Path) -> None:
    job = queue.submit(script(tmp_path, '[ "$LIGHTNING_MM_TASK" = 0 ] || sleep 60 & wait'), array="0-1")
    wait_for(queue, [job], lambda found: found[f"{job}_1"].state == "running")
    queue.cancel([f"{job}_1"])
    found = wait_for(queue, [job], ended)
    assert [one.state for one in found.values()] == ["finished", "cancelled"]


def test_a_killed_keeper_leaves_no_job_that_runs_for_ever(queue: Local, tmp_path: Path) -> None:
    job = queue.submit(script(tmp_path, "echo $PPID >keeper\nwhile [ ! -f go ]; do sleep 0.1; done"))
    wait_for(queue, [job], lambda _: (tmp_path / "keeper").is_file() and (tmp_path / "keeper").read_text() != "")
    keeper = int((tmp_path / "keeper").read_text())
    assert os.getsid(keeper) == keeper != os.getsid(0), "a closed terminal does not end it"
    os.kill(keeper, signal.SIGKILL)
    assert queue.states([job])[job].state == "running", "the script still runs"
    (tmp_path / "go").touch()
    assert wait_for(queue, [job], ended)[job] == Job(job, "failed", "LOST", None, 0)


def test_refuses(queue: Local, tmp_path: Path) -> None:
    with pytest.raises(LightningMMError, match=r"one node, this machine; got 2 \(--nodes\)"):
        queue.submit(script(tmp_path, "true", "job.sh", "--nodes=2"))
    with pytest.raises(LightningMMError, match="no local job 5 to wait for"):
        queue.submit(script(tmp_path, "true"), after=["5"])
    with pytest.raises(LightningMMError, match="array: expected numbers such as"):
        queue.submit(script(tmp_path, "true"), array="a-b")
    assert not (tmp_path / "queue").exists()
    assert queue.states(["3", "3_1"]) == {"3": Job("3", "unknown"), "3_1": Job("3_1", "unknown")}


def test_damaged_files_are_named(queue: Local) -> None:
    job = JobFolder.new(queue.folder)
    with pytest.raises(LightningMMError, match=r"job\.json was not found: the job was not submitted whole"):
        queue.states([job.id])
    (job.path / "job.json").write_text('{"log": 3}')
    with pytest.raises(LightningMMError, match=r"job\.json is damaged .*log"):
        queue.states([job.id])


def test_old_jobs_are_forgotten_but_not_their_numbers(queue: Local) -> None:
    jobs = [JobFolder.new(queue.folder) for _ in range(3)]
    with jobs[1].hold():
        forget_old(queue.folder, seconds=-1)
        assert sorted(path.name for path in queue.folder.iterdir()) == ["2", "3"]
    assert JobFolder.new(queue.folder).id == "4"


def test_numbers_of_an_array() -> None:
    assert tasks_of(None) == (None, None)
    assert tasks_of("1,3-4") == ([1, 3, 4], None)
