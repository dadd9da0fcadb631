"""``lightning-mm submit``: one message and nothing left for every mistake, and real jobs that go on after a stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning.pytorch  # noqa: F401 (its log keeps the stream of its first import, which a test would close)
import pytest
import yaml

from lightning_mm.cli import main
from lightning_mm.cluster.local.folder import CAN_RUN
from lightning_mm.cluster.local.queue import Local
from lightning_mm.cluster.scheduler import Job
from lightning_mm.cluster.script import Script
from lightning_mm.cluster.slurm import Slurm
from lightning_mm.cluster.submission.run_job import RunJob, jobs_of, read_job
from lightning_mm.errors import LightningMMError
from lightning_mm.schemas.job_settings import JobSettings
from tests.support.repository import REPOSITORY
from tests.support.tiny_run import BASE

TOOLS = "/usr/bin:/bin"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a small fit, in a working directory of its own, without Slurm on the PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "base.yaml").write_text(BASE)
    return ["-c", "base.yaml", "--trainer.default_root_dir", "run"]


def accept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of sbatch that takes everything, but as a file ``refuse`` says; returns its notes."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "sbatch"
    program.write_text(f"""#!/bin/bash
echo "$@" >>{folder}/called
[ "$1" != --test-only ] || exit 0
if [ -f {folder}/refuse ]; then echo "sbatch: error: full" >&2; exit 1; fi
wc -l <{folder}/called
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{TOOLS}")
    return folder / "called"


def failed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(["submit", *args]) in (1, 2)
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("lightning-mm: error: ")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0].removeprefix("lightning-mm: error: ")


@pytest.mark.parametrize(
    ("own", "words", "message"),
    [
        ([], [], "expected a command after --"),
        ([], ["fti"], "got 'fti'; did you mean 'fit'?"),
        (["--nodes", "two"], ["fit"], "invalid int value: 'two'"),
        (["--nodes", "0"], ["fit"], "nodes: expected at least 1, got 0"),
        (["--sbatch", "mail"], ["fit"], "--sbatch: expected KEY=VALUE"),
        (["--profile", "juwels"], ["fit"], "no profile 'juwels'"),
        (["--array", "2"], ["fit"], "--array splits a sweep over jobs"),
        (["--array", "1"], ["sweep"], "--array: expected 2 or more jobs, got 1"),
        (["--array", "2"], ["compare", "-c", "study.yaml"], "--array and --after are for fit and sweep"),
        ([], ["compare", "-c", "study.yaml", "--jobs", "2"], "give --array_limit before the -- to limit how many"),
        ([], ["fit", "--trainer.devices", "4"], "--trainer.devices follows from what the job asks for"),
        ([], ["fit", "--ckpt_path=last"], "goes on from the newest checkpoint of its own folder"),
        ([], ["sweep", "--shard", "1/2"], "--shard is not for submit; give --array K"),
        ([], ["fit"], "sbatch was not found on the PATH"),
    ],
)
def test_a_mistake_in_the_command(
    own: list[str], words: list[str], message: str, base: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = failed(capsys, "slurm", *own, *(["--", *words] if words else []))
    assert message in said
    assert os.listdir() == ["base.yaml"], "nothing is written"


def test_a_profile_with_a_typo(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.yaml").write_text("partion: gpu\n")
    assert "p.yaml: unknown key 'partion'; did you mean 'partition'?" in failed(
        capsys, "slurm", "--profile", "p.yaml", "--", "fit", *base
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.batch_sise", "2"], "did you mean"),
        (["--model.init_args.model.init_args.channels", "{rgb: 3, depth: 2}"], "TinyNetwork raised RuntimeError"),
        (["--trainer.default_root_dir", "null"], "submit keeps the files of a job in the folder of its run"),
    ],
)
def test_a_wrong_config_queues_nothing(
    words: list[str],
    message: str,
    base: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    called = accept(tmp_path, monkeypatch)
    assert message in failed(capsys, "slurm", "--", "fit", *base, *words)
    assert called.read_text().count("\n") == called.read_text().count("--test-only") == 1
    assert not Path("run").exists()


def test_what_is_refused_leaves_nothing(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(tmp_path, monkeypatch)
    (tmp_path / "refuse").touch()
    assert failed(capsys, "slurm", "--unchecked", "--", "fit", *base) == "Slurm refused the job: full"
    assert not Path("run").exists()


def test_a_fit_that_has_finished_or_another_in_its_folder_is_not_queued(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(BASE.replace("filename: best", "filename: best, save_last: true"))
    called = accept(tmp_path, monkeypatch)
    ended = Job("2", "finished", "COMPLETED", 0, 0)
    monkeypatch.setattr(Slurm, "states", lambda self, ids: dict.fromkeys(ids, ended))
    submit = ["submit", "slurm", "--unchecked", "--", "fit", *base]
    assert main(submit) == 0
    assert main(["fit", "-c", "run/jobs/fit/config.yaml", "--ckpt_path", "auto"]) == 0
    before = called.read_text()
    capsys.readouterr()
    assert main(submit) == 0
    said = capsys.readouterr().out
    assert said == "nothing was queued: this fit has finished; to train anew, empty run or give another folder\n"
    other = failed(capsys, *submit[1:], "--model.init_args.optimizer.init_args.lr", "0.5")
    assert "of a run with other settings (model.init_args.optimizer.init_args.lr: 0.01 there, 0.5 now)" in other
    assert "; a submitted fit goes on from its own checkpoints only: remove it or give another --trainer." in other
    assert "--ckpt_path" not in other, "which submit refuses"
    assert "--parsable" not in called.read_text().removeprefix(before)


def test_submits_with_a_profile(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = accept(tmp_path, monkeypatch)
    profiles = tmp_path / "config" / "lightning_mm" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "big.yaml").write_text("partition: gpu\nnodes: 2\ngpus_per_node: 4\nsbatch: {comment: ours}\n")
    words = ["slurm", "--profile", "big", "--gpus_per_node", "2", "--sbatch", "mail-type=END", "--after", "5", "6"]
    assert main(["submit", *words, "--", "fit", *base]) == 0
    out = capsys.readouterr().out
    assert out == (
        "job 2: fit on 2 nodes with 2 GPUs\nscript: run/jobs/fit/job.sh\nfollow: tail -F run/jobs/fit/2.log\n"
        "cancel: scancel 2\n"
    )
    folder = tmp_path / "run" / "jobs" / "fit"
    assert called.read_text().splitlines()[-1] == f"--parsable --dependency=afterany:5:6 {folder / 'job.sh'}"
    text = (folder / "job.sh").read_text()
    for option in (
        "nodes=2",
        "ntasks-per-node=2",
        "gpus-per-node=2",
        "comment=ours",
        "mail-type=END",
        "job-name=run-fit",
    ):
        assert f"#SBATCH --{option}\n" in text
    trainer = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]
    found = {key: trainer[key] for key in ("accelerator", "devices", "num_nodes", "strategy")}
    assert found == {"accelerator": "gpu", "devices": 2, "num_nodes": 2, "strategy": "ddp"}
    state = read_job(folder)
    assert state is not None
    assert (state.id, state.merge) == ("2", None)


def test_a_live_job_is_not_submitted_twice(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "jobs" / "fit"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"scheduler": "slurm", "id": "5"}))
    facts = {"default_root_dir": "run", "out": None, "split": "test", "combinations": None, "modalities": ["a", "b"]}
    job = RunJob("fit", facts, JobSettings(), tmp_path, "")

    class Says(Slurm):
        state = "running"

        def states(self, ids: Sequence[str]) -> dict[str, Job]:
            return {one: Job(one, self.state) for one in ids}  # type: ignore[arg-type]

    with pytest.raises(LightningMMError, match="its fit is running already, as job 5 of slurm"):
        job.check_free(lambda _: Says())
    Says.state = "failed"
    job.check_free(lambda _: Says())
    with pytest.raises(LightningMMError, match="this sweep has 3 combinations, expected at most as many; got 4"):
        RunJob("sweep", facts, JobSettings(), tmp_path, "", shards=4).check()


def test_secrets_are_for_the_owner(base: list[str], tmp_path: Path) -> None:
    facts = {"default_root_dir": "run", "config": "trainer: {api_key: a}\n", "secrets": True}
    Path("bin").mkdir()
    job = RunJob("fit", facts, JobSettings(), tmp_path, "")
    with pytest.raises(LightningMMError, match="not found on the PATH"):
        job.submit(Slurm(), "slurm")
    assert not Path("run").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", TOOLS)
        local = Local(folder=tmp_path / "queue")
        job.submit(local, "local")
        local.cancel(["1"])
    assert oct((job.folder / "config.yaml").stat().st_mode)[-3:] == "600"


def wait(until: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.2)


def state_of(name: str) -> Job:
    from lightning_mm.cluster.schedulers import scheduler_of

    return jobs_of(Path("run"), scheduler_of)[name]


@pytest.fixture
def submits(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> list[str]:
    """As :func:`base`, on a real Slurm."""
    monkeypatch.setenv("PATH", f"{TOOLS}:/usr/local/bin")
    request.getfixturevalue("slurm")
    return base


@pytest.mark.slow
def test_a_fit_on_two_nodes_is_queued_again_and_goes_on(submits: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [*submits, "--trainer.max_epochs", "100"]
    assert main(["submit", "slurm", "--nodes", "2", "--time", "10", "--", "fit", *words]) == 0
    job = state_of("fit").id
    wait(lambda: Path("run/weights/best.ckpt").exists() or state_of("fit").state == "failed")
    subprocess.run(["scancel", "--signal=USR2", "--batch", job], check=True)
    wait(lambda: state_of("fit").state in ("finished", "failed", "cancelled"))
    log = Path(f"run/jobs/fit/{job}.log").read_text()
    assert state_of("fit") == Job(job, "finished", "COMPLETED", 0, 1), log
    assert f"lightning-mm: job {job} is queued again, time 1 of 20" in log
    assert "goes on from" in log
    assert "srun" not in log.replace("srun: ", ""), "Lightning's hint is for others"
    capsys.readouterr()
    assert main(["status", "run"]) == 0
    assert "queued again 1 time" in capsys.readouterr().out


@pytest.mark.slow
def test_cancelled_stays_cancelled_and_tasks_are_queued_again_alone(submits: list[str], tmp_path: Path) -> None:
    body = """
import os, signal, sys, time
def end(number, frame):
    sys.exit(75 if number == signal.SIGUSR2 else 143)
signal.signal(signal.SIGUSR2, end), signal.signal(signal.SIGTERM, end)
name = os.environ["LIGHTNING_MM_TASK"] + "-" + os.environ["LIGHTNING_MM_RESTARTS"]
open(name, "w").close()
time.sleep(0 if name.endswith("-1") else 100)
"""
    Path("program.py").write_text(body)
    settings = JobSettings(command=f"{sys.executable} program.py", time="5")
    path = tmp_path / "job.sh"
    path.write_text(Script("tasks", ["fit"], tmp_path / "%A_%a.log", settings, tmp_path).text())
    slurm = Slurm()
    job = slurm.submit(path, array="0-1")
    wait(lambda: Path("0-0").exists() and Path("1-0").exists())
    subprocess.run(["scancel", "--signal=USR2", "--batch", f"{job}_0"], check=True)
    wait(lambda: slurm.states([f"{job}_0"])[f"{job}_0"].restarts == 1)
    slurm.cancel([f"{job}_1"])
    wait(lambda: all(one.state in ("finished", "cancelled", "failed") for one in slurm.states([job]).values()))
    time.sleep(2)  # a job that was wrongly queued again would be pending now
    found = slurm.states([job])
    assert (found[f"{job}_0"].state, found[f"{job}_0"].restarts) == ("finished", 1)
    assert (found[f"{job}_1"].state, found[f"{job}_1"].restarts) == ("cancelled", 0)
    assert Path("0-1").exists()
    assert not Path("1-1").exists()


@pytest.mark.slow
@pytest.mark.skipif(not CAN_RUN, reason="needs bash and a Unix")
def test_locally_a_fit_and_then_a_sweep_in_two_tasks(
    base: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", TOOLS)
    assert main(["submit", "local", "--", "fit", *base]) == 0
    assert "cancel: lightning-mm cancel run" in capsys.readouterr().out
    sweep = ["sweep", *base, "--ckpt_path", "run/weights/best.ckpt", "--bootstrap", "10"]
    assert main(["submit", "local", "--unchecked", "--jobs", "2", "--array", "2", "--after", "1", "--", *sweep]) == 0
    wait(lambda: state_of("sweep merge").state in ("finished", "failed", "cancelled"))
    assert state_of("sweep merge").state == "finished", "".join(
        path.read_text() for path in Path("run/jobs").glob("*/*.log")
    )
    assert main(["sweep", *base, "--ckpt_path", "run/weights/best.ckpt", "--bootstrap", "10", "--out", "whole"]) == 0
    assert Path("run/sweep/sweep.csv").read_bytes() == Path("whole/sweep.csv").read_bytes()
    capsys.readouterr()
    assert main(["status", "run"]) == 0
    shown = capsys.readouterr().out
    for name in ("fit", "sweep 1", "sweep 2", "sweep merge"):
        assert f"{name:11}  finished" in shown
    assert main(["cancel", "run"]) == 0
    assert "nothing is queued or running" in capsys.readouterr().out


def test_the_status_of_a_run_says_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / "jobs" / "fit"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"scheduler": "slurm", "id": "7"}))
    (folder / "7.log").write_text("one\ntwo\nthree\n\nlightning-mm: not queued again after 20 times (max_requeues)\n")
    ended = Job("7", "failed", "OUT_OF_MEMORY", 253, 20, signal=125)
    monkeypatch.setattr(Slurm, "states", lambda self, ids: dict.fromkeys(ids, ended))
    assert main(["status", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "fit  failed    job 7  OUT_OF_MEMORY, signal 125 (out of memory), queued again 20 times",
        "     | two",
        "     | three",
        "     | lightning-mm: not queued again after 20 times (max_requeues)",
        f"     log: {folder / '7.log'}",
    ]
