"""``fit --ckpt_path auto``: what it goes on from, what it refuses, and when it does not start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mm.cli import main
from lightning_mm.cli.lightning.resume import RESTARTS, STATE, Attempt, settings_of
from lightning_mm.errors import LightningMMError, UsageError
from lightning_mm.signals import GAVE_UP
from tests.support.tiny_run import BASE

MONITORED = """
trainer:
  max_epochs: 3
  callbacks:
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args:
      {dirpath: "${trainer.default_root_dir}", filename: best, monitor: train/loss, mode: max, save_last: true,
       enable_version_counter: false}
"""


class Run:
    """One training, which is the best after its first epoch, as the loss is to be as large as possible."""

    def __init__(self, folder: Path) -> None:
        (folder / "base.yaml").write_text(BASE)
        (folder / "more.yaml").write_text(MONITORED)
        self.folder = folder / "run"
        configs = ["-c", str(folder / "base.yaml"), "-c", str(folder / "more.yaml")]
        self.command = ["fit", *configs, "--trainer.default_root_dir", str(self.folder), "--ckpt_path", "auto"]
        assert main(self.command) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("auto"))


def steps(path: Path) -> tuple[int, int]:
    content = torch.load(path, weights_only=True)
    return content["epoch"], content["global_step"]


def test_last_is_the_last_one_and_not_the_best(run: Run) -> None:
    assert steps(run.folder / "best.ckpt") == (0, 2)
    assert steps(run.folder / "last.ckpt") == (2, 6)
    assert not (run.folder / "resume.ckpt").exists()


def test_a_finished_run_is_not_trained_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run.folder / "last.ckpt").stat().st_mtime_ns
    assert main(run.command) == 0
    assert "this fit has finished (see " in capsys.readouterr().out
    assert main([*run.command, "--data.num_workers", "1", "--trainer.log_every_n_steps", "7"]) == 0
    assert "this fit has finished" in capsys.readouterr().out, "settings that change nothing"
    assert (run.folder / "last.ckpt").stat().st_mtime_ns == before


def test_the_checkpoint_of_other_settings_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*run.command, "--trainer.max_epochs", "4", "--data.batch_size", "2"]) == 2
    said = capsys.readouterr().err
    assert "last.ckpt is of a run with other settings (" in said
    assert "trainer.max_epochs: 3 there, 4 now" in said
    assert "give --ckpt_path and this path" in said


def config(folder: Path, **more: Any) -> dict[str, Any]:
    callback = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": f"{folder}/weights", "save_last": True},
    }
    return {"trainer": {"default_root_dir": str(folder), "callbacks": [callback], **more}, "data": {"num_workers": 0}}


def checkpoint(path: Path, settings: dict[str, Any] | None, step: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"loops": {}, "optimizer_states": [], "lr_schedulers": [], "epoch": 0}
    content["global_step"] = step
    if settings is not None:
        content["lightning_mm_settings"] = settings
    torch.save(content, path)
    return path


def test_the_farthest_checkpoint_of_the_run_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = config(tmp_path)
    attempt = Attempt.of(given)
    assert attempt.find(given) is None, "a first start"
    last = checkpoint(tmp_path / "weights" / "last.ckpt", attempt.settings, 5)
    assert attempt.find(given) == last
    resume = checkpoint(tmp_path / "resume.ckpt", attempt.settings, 7)
    assert attempt.find(given) == resume
    checkpoint(last, attempt.settings, 7)
    os.utime(resume, (0, 0))
    assert attempt.find(given) == last, "the later one of two at the same step"
    last.write_bytes(b"half")
    assert attempt.find(given) == resume
    assert "last.ckpt is left out" in capsys.readouterr().out


def test_checkpoints_of_others_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = config(tmp_path)
    attempt = Attempt.of(given)
    checkpoint(tmp_path / "resume.ckpt", None, 5)
    with pytest.raises(UsageError, match=r"resume\.ckpt is of an older release or another program"):
        attempt.find(given)
    checkpoint(tmp_path / "resume.ckpt", {**attempt.settings, "data.seed": 1}, 5)
    with pytest.raises(UsageError, match=r"data\.seed: 1 there, not given now"):
        attempt.find(given)
    last = checkpoint(tmp_path / "weights" / "last.ckpt", attempt.settings, 3)
    assert attempt.find(given) == last
    assert "resume.ckpt is of a run with other settings" in capsys.readouterr().out


def test_the_folder_and_what_changes_nothing_are_no_settings(tmp_path: Path) -> None:
    one, two = (settings_of(config(tmp_path / name, logger=name, own=str(tmp_path / name))) for name in "ab")
    assert one == two
    assert one["trainer.callbacks.0.init_args.dirpath"] == "{folder}/weights"
    assert one["trainer.own"] == "{folder}"
    assert not [name for name in one if name.startswith(("data.num_workers", "trainer.logger"))]


def test_two_requeues_without_a_step_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = config(tmp_path)

    def start(restart: int, path: Path | None) -> int:
        monkeypatch.setenv(RESTARTS[0], str(restart))
        attempt = Attempt.of(given)
        attempt.begin(path)
        return attempt.useless()

    assert [start(number, None) for number in range(3)] == [0, 1, 2]
    with pytest.raises(SystemExit) as end:
        start(3, None)
    assert end.value.code == GAVE_UP
    assert "2 requeues have brought no step, so this run gives up" in capsys.readouterr().out
    settings = Attempt.of(given).settings
    assert start(4, checkpoint(tmp_path / "resume.ckpt", settings, 1)) == 0, "a step was made"
    assert start(5, tmp_path / "resume.ckpt") == 1
    assert start(0, tmp_path / "resume.ckpt") == 0, "another job"
    monkeypatch.setattr(Attempt, "write", lambda *_, **__: None)  # a rank that looks first
    assert start(4, checkpoint(tmp_path / "resume.ckpt", settings, 2)) == 4, "it goes on as the first one does"
    (tmp_path / STATE).write_text("{}")
    with pytest.raises(LightningMMError, match=r"fit\.state\.json is damaged.*remove it"):
        start(1, None)
