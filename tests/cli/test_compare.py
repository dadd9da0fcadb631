"""``lightning-mm compare`` on real networks: mistakes, the table, a kill in the middle of a training, a cell alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mm.cli import main
from lightning_mm.cli.compare import compare, perform_step
from lightning_mm.errors import LightningMMError
from tests.support.in_process import in_process
from tests.support.kill_study import KILL_STUDY, SURVIVED
from tests.support.recorded_study import finish_study
from tests.support.repository import REPOSITORY
from tests.support.study_files import without_times

STUDY = """
config: [{scenes}/base.yaml, callbacks.yaml]
seeds: [0]
bootstrap: 20
settings: {{data.dataset.init_args.size: 32, data.dataset.init_args.test_length: 8, data.batch_size: 4}}
methods:
  zero_fill:
  adapted: {{configs: [{scenes}/ssf.yaml], tune: {{model.init_args.optimizer.init_args.lr: [0.03]}}}}
  dedicated:
"""
CALLBACKS = """
trainer:
  callbacks:
  - class_path: tests.support.kill_study.KillStudy
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}", filename: best, enable_version_counter: false}
"""


class Studies:
    """A folder of studies that are alike."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "study.yaml").write_text(STUDY.format(scenes=REPOSITORY / "experiments" / "scenes"))
        (folder / "callbacks.yaml").write_text(CALLBACKS)

    def command(self, name: str) -> list[str]:
        arguments = ["compare", "-c", str(self.folder / "study.yaml"), "--fast", "--combinations", "depth"]
        return [*arguments, "--out", str(self.folder / name), "--results", str(self.folder / f"{name}_report")]

    def contents(self, name: str) -> dict[str, Any]:
        """All result files but for what a clock says."""
        return without_times(self.folder / f"{name}_report")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    """A study that has been run whole."""
    studies = Studies(tmp_path_factory.mktemp("studies"))
    assert main(studies.command("whole")) == 0
    return studies


def test_what_weights_and_biases_refuses_comes_after_table_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    study, *_ = finish_study(tmp_path)
    study = replace(study, wandb={**study.wandb, "project": "not/allowed"})
    with pytest.raises(LightningMMError, match=r"Invalid project name .* The results are in .*report"):
        compare(study, perform_step)
    assert "adapted" in capsys.readouterr().out
    assert (study.results / "report.html").is_file()


@pytest.mark.slow
def test_the_table_is_printed_and_finished_steps_are_not_repeated(
    whole: Studies, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (whole.folder / "whole/dedicated/depth/seed0/fit.done.json").stat().st_mtime_ns
    assert main(whole.command("whole")) == 0
    out = capsys.readouterr().out
    assert "recovered gap" in out
    assert "dedicated" in out
    assert (whole.folder / "whole/dedicated/depth/seed0/fit.done.json").stat().st_mtime_ns == written
    assert main([*whole.command("whole"), "--dry_run"]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("open")]


@pytest.mark.slow
def test_killed_in_a_training_it_leaves_no_worker_and_ends_with_the_same_files(whole: Studies) -> None:
    environment = {**os.environ, "LIGHTNING_MM_NO_TYPE_HOOK": "1", KILL_STUDY: "dedicated/depth/seed0"}
    command = [sys.executable, "-m", "lightning_mm", *whole.command("killed")]
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, check=False)
    assert run.returncode == -signal.SIGKILL
    cell = whole.folder / "killed" / "dedicated" / "depth" / "seed0"
    assert not (cell / "fit.done.json").exists()
    kept = (whole.folder / "killed" / "base" / "seed0" / "fit.done.json").read_bytes()
    assert main(whole.command("killed")) == 0
    assert not (cell / SURVIVED).exists(), "the worker ended with its study"
    assert (whole.folder / "killed" / "base" / "seed0" / "fit.done.json").read_bytes() == kept
    assert whole.contents("killed") == whole.contents("whole")


@pytest.mark.slow
def test_a_cell_can_be_run_alone(whole: Studies, tmp_path: Path) -> None:
    assert main([*whole.command("alone"), "--methods", "zero_fill", "dedicated"]) == 0
    cell = whole.folder / "alone" / "dedicated" / "depth" / "seed0"
    facts = json.loads((cell / "test.done.json").read_text())
    alone = [part if part != str(cell / "sweep") else str(tmp_path / "alone") for part in facts["command"]]
    kept = torch.load(cell / "best.ckpt", weights_only=True)["state_dict"]
    (cell / "best.ckpt").unlink()
    assert main(json.loads((cell / "fit.done.json").read_text())["command"]) == 0
    assert main(alone) == 0
    assert (tmp_path / "alone" / "sweep.csv").read_bytes() == (cell / "sweep" / "sweep.csv").read_bytes()
    again = torch.load(cell / "best.ckpt", weights_only=True)["state_dict"]
    assert set(again) == set(kept)
    for name, value in kept.items():
        torch.testing.assert_close(again[name], value, rtol=1e-3, atol=1e-6, msg=lambda m: f"{name}: {m}")  # noqa: B023


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("metric: accuracy\n", "metric: this task has miou"),
        ("majority: true\n", "majority: the sweeps of this task keep no labels"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if change.startswith("majority"):  # the other one is found by the worker of a user
        monkeypatch.setattr("lightning_mm.compare.processes", in_process)
    studies = Studies(tmp_path)
    with (tmp_path / "study.yaml").open("a") as file:
        file.write(change)
    assert main(studies.command("study")) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = Studies(tmp_path).command("study")
    for extra, message in (
        (["--jobs", "0"], "--jobs: expected 1 or more"),
        (["--methods", "adaptd"], "--methods: this study has base, zero_fill"),
        (["--set", "nothing"], "--set: expected KEY=VALUE, got 'nothing'"),
        (["nothing"], "unrecognized arguments: nothing"),
        (["--set", "data.modalities=[rgb]"], "a study compares the modalities of its config"),
        (["--set", "model.init_args.optimizer.init_args.lr=1"], "adapted tunes it; change the study"),
        (["--job", "2"], "unrecognized arguments: --job"),
    ):
        assert main([*arguments, *extra]) == 2
        assert message in capsys.readouterr().err
    assert main(["compare", "-c", str(tmp_path / "nowhere.yaml")]) == 1
    assert "no file at" in capsys.readouterr().err
    assert main(["compare", "-c", str(tmp_path / "study.yaml"), "--fast", "--dry_run"]) == 0
    assert "study_fast/base/seed0: fit" in capsys.readouterr().out, "a quick look leaves the study's own runs alone"
    assert main([*arguments, "--dry_run"]) == 0
    assert "open  " in capsys.readouterr().out
    assert not (tmp_path / "study").exists()
