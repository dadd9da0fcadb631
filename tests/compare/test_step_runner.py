"""Performing one step: its command, its log, its marker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare.step_runner import finished, perform
from lightning_mm.errors import LightningMMError
from tests.support.studies import fake, fake_command, first_step


def test_the_log_holds_the_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    step = first_step(tmp_path)

    def run(command: list[str]) -> dict[str, Any]:
        raise RuntimeError("out of luck")

    with capfd.disabled(), pytest.raises(RuntimeError):
        perform(step, run)
    assert "RuntimeError: out of luck" in (step.folder / "fit.log").read_text()


def test_a_step_whose_files_are_gone_is_run_again(tmp_path: Path) -> None:
    step = first_step(tmp_path)
    fake(step)
    assert finished(step) is not None
    (step.folder / "best.ckpt").unlink()
    assert finished(step) is None
    step.marker.write_text("[]")
    assert finished(step) is None


def test_what_an_unfinished_run_left_is_taken_out(tmp_path: Path) -> None:
    step = first_step(tmp_path)
    (step.folder / "sweep").mkdir(parents=True)
    (step.folder / "sweep" / "sweep.csv").write_text("old")
    step.marker.write_text(json.dumps({"key": "another"}))
    assert finished(step) is None
    assert fake(step)["cpu_seconds"] == 2.0
    assert sorted(path.name for path in step.folder.iterdir() if path.name != ".lock") == [
        "best.ckpt",
        "cell.yaml",
        "fit.done.json",
        "fit.log",
    ]
    step.marker.write_text("{half")
    assert finished(step) is None


def test_training_without_a_checkpoint_is_told(tmp_path: Path) -> None:
    step = first_step(tmp_path)

    def run(command: list[str]) -> dict[str, Any]:
        return fake_command(step, command) if "--print_config" in command else {}

    with pytest.raises(LightningMMError, match=r"training wrote no best\.ckpt; the study's config needs a ModelCheck"):
        perform(step, run)
    assert finished(step) is None
