"""Performing one step: its command, its log, its marker."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare.step_runner import finished, perform, resumable
from lightning_mm.errors import LightningMMError, Stopped
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


def test_a_stopped_training_is_continued_if_asked_to(tmp_path: Path) -> None:
    step = first_step(tmp_path)
    ran: list[list[str]] = []

    def run(command: list[str]) -> dict[str, Any]:
        if "--print_config" in command:
            return fake_command(step, command)
        ran.append(command)
        os.write(1, b"epoch\n")
        if len(ran) < 3:
            (step.folder / ("last.ckpt" if len(ran) == 1 else "resume.ckpt")).write_text("a whole training")
            raise Stopped(signal.SIGUSR2)
        return fake_command(step, command)

    for name in ("last.ckpt", "resume.ckpt"):
        with pytest.raises(Stopped):
            perform(step, run, resume=True)
        assert resumable(step) == step.folder / name
    begun = json.loads((step.folder / "fit.begun.json").read_text())
    (step.folder / "fit.begun.json").write_text(json.dumps({**begun, "seconds": 100.0, "cpu_seconds": 10.0}))
    facts = perform(step, run, resume=True)
    assert (facts["seconds"], facts["cpu_seconds"]) == (103.0, 12.0), "with the attempts before"
    assert [command[3:] for command in ran] == [["--ckpt_path", "auto"]] * 3
    assert (step.folder / "fit.log").read_text() == "epoch\n" * 3
    assert facts["command"] == ["fit", "-c", str(step.folder / "cell.yaml")]
    assert not (step.folder / "fit.begun.json").exists()


def test_a_stopped_training_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    step = first_step(tmp_path)
    step.folder.mkdir(parents=True)
    (step.folder / "resume.ckpt").write_text("a whole training")
    begun = step.folder / "fit.begun.json"
    for content in ('{"key": "another"}', "{half", "[]", '{"key": "' + step.key + '", "seconds": "x"}'):
        begun.write_text(content)
        assert resumable(step) is None
    begun.write_text(json.dumps({"key": step.key}))
    assert resumable(step) == step.folder / "resume.ckpt"
    perform(step, lambda command: fake_command(step, command))
    assert not (step.folder / "resume.ckpt").exists(), "compare starts it anew"


def test_a_training_that_was_killed_before_it_saved_remembers_how_often(tmp_path: Path) -> None:
    step = first_step(tmp_path)

    def killed(command: list[str]) -> dict[str, Any]:
        if "--print_config" in command:
            return fake_command(step, command)
        assert not (step.folder / "best.ckpt").exists(), "it starts anew"
        (step.folder / "best.ckpt").write_text("of an epoch")
        (step.folder / "fit.state.json").write_text('{"finished": false}')
        raise Stopped(signal.SIGUSR2)

    for _ in range(2):
        with pytest.raises(Stopped):
            perform(step, killed, resume=True)
    assert (step.folder / "fit.state.json").exists(), "`fit` gives up after some starts without a step"


def test_a_training_that_ended_before_its_marker_is_not_trained_again(tmp_path: Path) -> None:
    step = first_step(tmp_path)
    step.folder.mkdir(parents=True)
    for name, content in (("last.ckpt", "whole"), ("fit.begun.json", json.dumps({"key": step.key}))):
        (step.folder / name).write_text(content)
    (step.folder / "fit.state.json").write_text('{"finished": true}')
    ran: list[list[str]] = []

    def run(command: list[str]) -> dict[str, Any]:
        ran.append(command)
        return fake_command(step, command)

    assert perform(step, run, resume=True)["trained"] == 7
    assert ran[-1][3:] == ["--ckpt_path", str(step.folder / "last.ckpt")], "`auto` would end at once, without figures"
