"""Variables of Slurm as a real one sets them, and what Lightning makes of them."""

from __future__ import annotations

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment

from lightning_mm.cli.errors import explain
from lightning_mm.cli.slurm_tasks import check_processes, settle
from lightning_mm.errors import LightningMMError, UsageError

BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "job.sh", "SLURM_PROCID": "0"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}


def settled(variables: dict[str, str], **more: str) -> dict[str, str]:
    found = {**variables, **more}
    settle(found)
    return found


def is_slurm(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> bool:
    for name in ("SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("shutil.which", lambda *_: None)
    return SLURMEnvironment.detect()


def test_outside_slurm_nothing_changes() -> None:
    assert settled({"PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "more", [{}, {"SLURM_NTASKS_PER_NODE": "2"}, {"SLURM_STEP_ID": "0", "SLURM_PTY_PORT": "4", "SLURM_JOB_NAME": "x"}]
)
def test_without_srun_it_is_one_process(
    more: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = settled(BATCH, **more)
    assert not is_slurm(monkeypatch, found)
    assert "this job has 2 tasks, but srun has not started this command" in capsys.readouterr().err
    assert settled(BATCH, SLURM_NTASKS="1", **more)
    assert not capsys.readouterr().err


def test_one_task_of_srun_is_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_slurm(monkeypatch, settled(STEP, SLURM_STEP_NUM_TASKS="1"))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ["bash", "interactive", "ssf"])
def test_the_tasks_of_a_step_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settled(STEP, SLURM_JOB_NAME=name, SLURM_STEP_TASKS_PER_NODE="2(x2)", SLURM_NTASKS_PER_NODE="8")
    assert is_slurm(monkeypatch, found)
    environment = SLURMEnvironment()
    assert environment.world_size() == 4
    environment.validate_settings(num_devices=2, num_nodes=2)
    for devices, nodes, expected in ((1, 2, "devices"), (2, 1, "num_nodes")):
        with pytest.raises(ValueError, match=expected) as caught:
            environment.validate_settings(devices, nodes)
        explained = explain(caught.value)
        assert explained is not None
        assert explained == (
            f"srun has started 2 {'tasks on each node' if expected == 'devices' else 'nodes'}, but the "
            f"trainer has {expected}=1; give --trainer.{expected} 2",
            1,
        )


def test_unequal_nodes_are_refused() -> None:
    with pytest.raises(LightningMMError, match=r"different nodes \(3,1\).*--ntasks-per-node"):
        settled(STEP, SLURM_STEP_TASKS_PER_NODE="3,1")


def test_a_training_that_every_task_would_run_alone_is_refused() -> None:
    environment = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}
    check_processes(4, environment)
    check_processes(1, {})
    with pytest.raises(
        UsageError, match=r"started 4 processes, .* is for 1; give --trainer.num_nodes 2 and .*devices 2"
    ):
        check_processes(1, environment)
