"""``job.sh``: its text, and what it decides when its command ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.cluster.script import Script, trainer_settings
from lightning_mm.schemas.job_settings import JobSettings

SRUN = '#!/bin/bash\nwhile [[ "$1" = --* ]]; do shift; done\nexec "$@"\n'
RUNNING = "JobState=RUNNING Reason=None PreemptTime=None"
PREEMPTED = "JobState=RUNNING Reason=None PreemptTime=2026-11-30T10:18:51"
CANCELLED = "JobState=COMPLETING Reason=None PreemptTime=None"
TIMED_OUT = "JobState=COMPLETING Reason=TimeLimit PreemptTime=None"


def script(folder: Path, body: str, resumes: bool = True, **settings: Any) -> Path:
    """A script whose program is a line of Python."""
    (folder / "program.py").write_text(f"import os, signal, sys, time\n{body}\n")
    given = JobSettings.model_validate({"command": f"{sys.executable} {folder / 'program.py'}", **settings})
    path = folder / "job.sh"
    path.write_text(Script("job", ["fit"], folder / "%j.log", given, folder, resumes=resumes).text())
    return path


def slurm(folder: Path, state: str | None, requeues: bool = True) -> dict[str, str]:
    """Programs in the place of Slurm's, which note how they are called; without a state there is no ``scontrol``."""
    (folder / "bin").mkdir()
    programs = {"srun": SRUN, "sbatch": f'#!/bin/bash\necho "$LIGHTNING_MM_RESTARTS $@" >>{folder}/sbatch\n'}
    if state is not None:
        show = f'#!/bin/bash\nif [ "$1" = show ]; then echo "$3" >>{folder}/shown; echo " {state} "; exit; fi\n'
        programs["scontrol"] = show + f'echo "$@" >>{folder}/scontrol\nexit {0 if requeues else 1}\n'
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    for name in ("bash", "env", "sleep", "cat"):
        (folder / "bin" / name).symlink_to(str(shutil.which(name)))
    return {"PATH": str(folder / "bin"), "SLURM_JOB_ID": "7"}


def run(path: Path, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(["/bin/bash", path], capture_output=True, text=True, env=environment, check=False, timeout=60)
    return done.returncode, done.stderr


def wait_for_file(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)


def called(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("code", "state", "again"),
    [
        (0, RUNNING, False),
        (75, RUNNING, True),
        (1, RUNNING, False),
        (143, RUNNING, False),
        (143, PREEMPTED, True),
        (1, PREEMPTED, False),
        (143, CANCELLED, False),
        (75, CANCELLED, False),
        (143, TIMED_OUT, True),
        (76, TIMED_OUT, False),
        (137, RUNNING, False),
    ],
)
def test_who_is_queued_again(code: int, state: str, again: bool, tmp_path: Path) -> None:
    path = script(tmp_path, f"sys.exit({code})")
    found, said = run(path, slurm(tmp_path, state))
    assert found == code
    assert called(tmp_path, "scontrol") == (["requeue 7"] if again else [])
    assert ("is queued again, time 1 of 20" in said) == again
    assert not called(tmp_path, "sbatch")


def test_only_the_task_of_an_array_is_queued_again(tmp_path: Path) -> None:
    path = script(tmp_path, "sys.exit(75)")
    run(path, slurm(tmp_path, RUNNING) | {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"})
    assert called(tmp_path, "scontrol") == ["requeue 5_2"]
    assert called(tmp_path, "shown") == ["5_2"], "job 7 may be the whole array"


@pytest.mark.parametrize("state", [None, RUNNING])
def test_without_scontrol_the_same_script_is_submitted(state: str | None, tmp_path: Path) -> None:
    path = script(tmp_path, "sys.exit(75)")
    task = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "1"}
    run(path, slurm(tmp_path, state, requeues=False) | task)
    assert called(tmp_path, "sbatch") == [f"2 --dependency=afterany:5_2 --array=2 {path}"]


def test_gives_up(tmp_path: Path) -> None:
    path = script(tmp_path, "sys.exit(75)", max_requeues=3)
    environment = slurm(tmp_path, RUNNING) | {"SLURM_RESTART_COUNT": "2", "LIGHTNING_MM_RESTARTS": "1"}
    found, said = run(path, environment)
    assert (found, called(tmp_path, "scontrol")) == (1, [])
    assert (
        "not queued again after 3 times (max_requeues); the last time, the command asked for it (exit code 75)" in said
    )


def test_ports_and_ranks_of_another_run_are_not_inherited(tmp_path: Path) -> None:
    names = "'MASTER_PORT', 'WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'NODE_RANK'"
    path = script(
        tmp_path,
        f"sys.exit(sorted(set(os.environ) & {{{names}}}) != ['MASTER_PORT'])",
        environment={"MASTER_PORT": "29500"},
    )
    inherited = dict.fromkeys(("MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK"), "1")
    assert run(path, slurm(tmp_path, RUNNING) | inherited)[0] == 0, "the profile's own setting stays"


@pytest.mark.parametrize(("handler", "code"), [("signal.SIG_DFL", 128 + signal.SIGUSR2), ("saves", 75)])
def test_the_warning_reaches_the_command(handler: str, code: int, tmp_path: Path) -> None:
    body = f"""
def saves(*_):
    sys.exit(75)
signal.signal(signal.SIGUSR2, {handler})
open("ready", "w").close()
time.sleep(30)"""
    path = script(tmp_path, body)
    with subprocess.Popen(["/bin/bash", path], env=slurm(tmp_path, RUNNING)) as process:
        wait_for_file(tmp_path / "ready")
        process.send_signal(signal.SIGUSR2)
        assert process.wait(30) == code
    assert called(tmp_path, "scontrol") == ["requeue 7"], "also where it dies before it can save"


def test_a_warning_during_set_up_starts_nothing(tmp_path: Path) -> None:
    path = script(tmp_path, "open('started', 'w')", setup=["kill -USR2 $$"])
    found, said = run(path, slurm(tmp_path, RUNNING))
    assert (found, called(tmp_path, "scontrol")) == (75, ["requeue 7"])
    assert not (tmp_path / "started").exists()
    assert "time 1 of 20: it was warned of the time limit before the set-up had ended" in said


@pytest.mark.parametrize("line", ["exit 4", "cd /nowhere || exit 4"])
def test_a_set_up_that_ends_the_script_says_so(line: str, tmp_path: Path) -> None:
    path = script(tmp_path, "open('started', 'w')", setup=[line])
    found, said = run(path, slurm(tmp_path, RUNNING))
    assert (found, called(tmp_path, "scontrol")) == (4, [])
    assert "a line of the set-up ended this with exit code 4; the command was not started" in said
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(("state", "again"), [(TIMED_OUT, False), (PREEMPTED, True)])
def test_what_cannot_go_on_is_not_queued_again_at_the_limit(state: str, again: bool, tmp_path: Path) -> None:
    path = script(tmp_path, "sys.exit(143)", resumes=False)
    _, said = run(path, slurm(tmp_path, state))
    assert called(tmp_path, "scontrol") == (["requeue 7"] if again else [])
    assert ("more time than --time gives" in said) == (not again)
    assert "--signal" not in path.read_text()


def test_outside_slurm_it_passes_the_code_on(tmp_path: Path) -> None:
    path = script(tmp_path, "sys.exit(int(os.environ['LIGHTNING_MM_TASK']))")
    for code in (0, 1, 75):
        assert run(path, {"PATH": "/usr/bin:/bin", "LIGHTNING_MM_TASK": str(code)})[0] == code


def test_outside_slurm_sigterm_reaches_the_command(tmp_path: Path) -> None:
    body = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nopen('ready', 'w').close()\ntime.sleep(30)"
    path = script(tmp_path, body)
    with subprocess.Popen(["/bin/bash", path], env={"PATH": "/usr/bin:/bin"}) as process:
        wait_for_file(tmp_path / "ready")
        process.terminate()
        assert process.wait(30) == 143


def test_set_up_and_options(tmp_path: Path) -> None:
    settings = {
        "nodes": 2, "gpus_per_node": 4, "gres": "gpu:a100", "cpus_per_task": 8, "time": "1-02:00:00",
        "partition": "gpu", "modules": ["CUDA/12"], "environment": {"NCCL_DEBUG": "INFO; rm x"},
        "setup": ["source venv/bin/activate"],
        "sbatch": {"comment": "a b"}, "srun": {"container-image": "a b.sqsh"}, "command": "lightning-mm",
    }  # fmt: skip
    words = ["sweep", "--shard", "$LIGHTNING_MM_TASK/4", "--out", "it's"]
    text = Script("a study", words, Path("/run/%A_%a.log"), JobSettings.model_validate(settings), Path("/w")).text()
    options = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert options == [
        'job-name="a study"', "output=/run/%A_%a.log", "nodes=2", "ntasks-per-node=4", "cpus-per-task=8",
        "time=1-02:00:00", "partition=gpu", "gres=gpu:a100:4", "open-mode=append", "signal=B:USR2@120",
        'comment="a b"', "requeue",
    ]  # fmt: skip
    for line in (
        "cd /w || exit 1",
        "module load CUDA/12 || exit 1",
        "export NCCL_DEBUG='INFO; rm x'",
        "source venv/bin/activate",
        """command=(lightning-mm sweep --shard "$LIGHTNING_MM_TASK"/4 --out 'it'"'"'s')""",
        "[ -z \"$slurm\" ] || launch=(srun --kill-on-bad-exit=1 --cpus-per-task=8 '--container-image=a b.sqsh')",
    ):
        assert line in text.splitlines()


def test_one_process_for_what_needs_one(tmp_path: Path) -> None:
    settings = JobSettings(nodes=2, gpus_per_node=4)
    text = Script("merge", ["merge"], tmp_path / "%j.log", settings, tmp_path, alone=True).text()
    assert "#SBATCH --nodes=1\n#SBATCH --ntasks-per-node=1\n" in text
    assert "gpus" not in text


def test_the_trainer_follows() -> None:
    assert trainer_settings(JobSettings()) == {
        "trainer.accelerator": "cpu", "trainer.devices": 1, "trainer.num_nodes": 1
    }  # fmt: skip
    found = trainer_settings(JobSettings(nodes=2, gpus_per_node=4))
    assert list(found.values()) == ["gpu", 4, 2]
    assert trainer_settings(JobSettings(nodes=2, tasks_per_node=3))["trainer.devices"] == 3
