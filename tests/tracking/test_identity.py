"""Which run a fit continues: its own after a resume, a new one for anything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from lightning_mm.errors import LightningMMError
from lightning_mm.tracking import OfflineFirstWandbLogger
from lightning_mm.tracking.follow import follow_fit
from lightning_mm.tracking.identity import CHECKPOINT_ENTRY, FitRun, config_key, run_to_continue, slurm_job

RUN = FitRun("abc", "0123", project="p", group="study", step=7)


def config(**trainer: Any) -> dict[str, Any]:
    given = {"default_root_dir": "/runs/a", "max_epochs": 2, "callbacks": [{"dirpath": "/runs/a/weights"}], **trainer}
    return {"seed_everything": 1, "trainer": given, "data": {"batch_size": 4, "num_workers": 0}, "ckpt_path": None}


def test_a_fit_may_be_moved_and_made_longer() -> None:
    key = config_key(config())
    moved = config(default_root_dir="/x", callbacks=[{"dirpath": "/x/weights"}], max_epochs=9, devices=2)
    assert config_key(moved) == key
    assert config_key({**config(), "ckpt_path": "/runs/a/last.ckpt"}) == key
    assert config_key({**config(), "seed_everything": 2}) != key
    assert config_key({**config(), "data": {"batch_size": 8}}) != key
    assert config_key(config(callbacks=[{"dirpath": "/runs/b/weights"}])) != key


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert FitRun.read(tmp_path) is None
    RUN.write(tmp_path)
    assert FitRun.read(tmp_path) == RUN
    (tmp_path / "wandb_run.json").write_text(json.dumps({"id": "abc"}))
    with pytest.raises(LightningMMError, match=r"wandb_run.json is damaged \(it lacks the keys \['key'\]\); remove it"):
        FitRun.read(tmp_path)


def test_a_checkpoint_names_the_run_with_its_last_lines() -> None:
    lines = [(6, {"loss": 0.5}), (7, {"loss": 0.25})]
    run = FitRun("abc", "0123", step=7, lines=lines)
    found = FitRun.of({CHECKPOINT_ENTRY: run.entry()})
    assert found is not None
    assert (found, found.lines) == (run, lines)
    assert FitRun.of({}) is None
    for damaged in ({"id": 3}, {**run.entry(), "new": 1}, {**run.entry(), "lines": [3]}, "abc"):
        assert FitRun.of({CHECKPOINT_ENTRY: damaged}) is None


def test_what_a_fit_continues(tmp_path: Path) -> None:
    entry = {CHECKPOINT_ENTRY: RUN.entry()}
    assert run_to_continue(tmp_path, "0123", None) == (None, "")
    assert run_to_continue(tmp_path, "0123", {}) == (None, ""), "of another logger"
    run, word = run_to_continue(tmp_path, "0123", entry)
    assert run is None
    assert word == f"no wandb_run.json in {tmp_path}: this fit is a new run, not abc"
    RUN.write(tmp_path)
    assert run_to_continue(tmp_path, "0123", None) == (None, ""), "without a resume it is a new run"
    assert run_to_continue(tmp_path, "0123", {})[0] == RUN, "a checkpoint of an older version names none"
    assert run_to_continue(tmp_path, "0123", entry)[0] == RUN
    run, word = run_to_continue(tmp_path, "4567", entry)
    assert run is None
    assert word == f"run abc of {tmp_path} has other settings: this fit is a new run"


def test_a_fit_that_was_ended_before_it_had_a_checkpoint(tmp_path: Path) -> None:
    RUN.write(tmp_path)
    assert run_to_continue(tmp_path, "0123", None, again=True)[0] == RUN
    assert run_to_continue(tmp_path, "4567", None, again=True)[0] is None
    FitRun("abc", "0123", finished=True).write(tmp_path)
    assert run_to_continue(tmp_path, "0123", None, again=True)[0] is None, "it has come to its end"


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_damaged_file_is_named_unless_nothing_is_recorded(tmp_path: Path, mode: str) -> None:
    (tmp_path / "wandb_run.json").write_text("{")
    logger = OfflineFirstWandbLogger(save_dir=str(tmp_path), mode=mode)
    trainer = Trainer(accelerator="cpu", logger=logger, default_root_dir=tmp_path, enable_checkpointing=False)
    callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
    if mode == "disabled":
        follow_fit(trainer, dict, None, again=False, base=None)
        assert trainer.callbacks == callbacks  # type: ignore[attr-defined]
        return
    with pytest.raises(
        LightningMMError, match=r"wandb_run\.json is damaged.*remove it: the next fit is then a new run"
    ):
        follow_fit(trainer, dict, None, again=False, base=None)


def test_the_slurm_job_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOB_ID", "JOB_NAME", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "CLUSTER_NAME", "JOB_PARTITION",
                 "JOB_NODELIST", "RESTART_COUNT"):  # fmt: skip
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    assert slurm_job() == {}
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_job() == {"job_id": "12", "array_task_id": "3"}
