"""ResumeCheckpoint in a user's own Trainer: it saves at a signal, ends the process, and the resumed run is the same."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_mm.callbacks import KeyedSeed, ResumeCheckpoint
from lightning_mm.callbacks.resuming.slurm import leave_requeueing_to_us
from lightning_mm.data import ModalityDropoutDataModule, Scenes
from lightning_mm.errors import LightningMMError
from lightning_mm.tasks import SemanticSegmentationTask
from tests.support.cli_network import TinyNetwork

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="signals of POSIX"),
    # ours is, by its sampler
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


class SignalAfter(Callback):
    """Sends a signal to this process while it trains a batch."""

    def __init__(self, batch: int, number: signal.Signals) -> None:
        self.batch, self.number = batch, number

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), self.number)


def parts() -> tuple[SemanticSegmentationTask, ModalityDropoutDataModule]:
    torch.manual_seed(0)
    task = SemanticSegmentationTask(
        model=TinyNetwork({"rgb": 3, "depth": 1}, 6, dropout=0.3), modalities=["rgb", "depth"], num_classes=6
    )
    data = ModalityDropoutDataModule(
        lambda split: Scenes(split, size=16, train_length=12, val_length=4), ["rgb", "depth"], batch_size=4
    )
    return task, data


def fit(folder: Path, *callbacks: Callback, resume: ResumeCheckpoint | None = None) -> dict[str, Any]:
    resume = resume or ResumeCheckpoint()
    trainer = Trainer(
        default_root_dir=folder, max_epochs=2, accelerator="cpu", devices=1, logger=False,
        callbacks=[resume, KeyedSeed(3), *callbacks], enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    task, data = parts()
    trainer.fit(task, data, ckpt_path=resume.checkpoint(folder))
    return task.state_dict()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR2, 75), (signal.SIGTERM, 143)])
def test_it_saves_ends_and_goes_on(tmp_path: Path, number: signal.Signals, code: int) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGUSR2, signal.SIGTERM)]
    whole = fit(tmp_path / "whole")
    with pytest.raises(SystemExit) as end:
        fit(tmp_path / "stopped", SignalAfter(4, number))
    assert end.value.code == code
    assert (tmp_path / "stopped" / "resume.ckpt").is_file()
    assert [signal.getsignal(one) for one in (signal.SIGUSR2, signal.SIGTERM)] == before
    resumed = fit(tmp_path / "stopped")
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    assert not (tmp_path / "stopped" / "resume.ckpt").exists()


def test_every_minutes_writes_without_a_signal_and_a_finished_run_removes_it(tmp_path: Path) -> None:
    seen: list[int] = []

    class Looks(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if (tmp_path / "resume.ckpt").is_file():
                seen.append(torch.load(tmp_path / "resume.ckpt", weights_only=True)["global_step"])

    fit(tmp_path, Looks(), resume=ResumeCheckpoint(every_minutes=1e-9))
    assert seen == [1, 2, 3, 4, 5]
    assert not (tmp_path / "resume.ckpt").exists()
    with pytest.raises(LightningMMError, match="every_minutes must be above 0, got 0"):
        ResumeCheckpoint(every_minutes=0)


def test_what_cannot_be_written_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = tmp_path / "resume.ckpt"

    def full(trainer: Trainer, path: str, *_: Any, **__: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(SystemExit):
        fit(tmp_path, SignalAfter(2, signal.SIGUSR2))
    content = older.read_bytes()
    after: list[bytes] = []

    class Looks(Callback):
        def on_train_end(self, *_: Any) -> None:
            after.append(older.read_bytes())

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    with pytest.warns(UserWarning, match="the training goes on: cannot write .*resume.ckpt: No space left"):
        fit(tmp_path, ModelCheckpoint(save_top_k=0), Looks(), resume=ResumeCheckpoint(every_minutes=1e-9))
    assert not list(tmp_path.glob(".*.part"))
    assert after == [content]


def test_the_same_failure_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(trainer: Trainer, path: str, *_: Any, **__: Any) -> None:
        raise LightningMMError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, ModelCheckpoint(save_top_k=0), resume=ResumeCheckpoint(every_minutes=1e-9))
    said = [str(one.message) for one in caught if "goes on" in str(one.message)]
    assert said == [
        "resume.ckpt was not written, and the training goes on: cannot write "
        f"{tmp_path / 'resume.ckpt'}: No space left on device"
    ]


def test_lightnings_own_requeueing_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "job", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    for name, value in {**job, "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of another run")
    given: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", devices=1, barebones=False, **given)
    leave_requeueing_to_us(trainer)
    leave_requeueing_to_us(trainer)
    environment: Any = trainer._accelerator_connector.cluster_environment
    assert environment.auto_requeue is False
    trainer.fit(*parts())
    with pytest.raises(Exception, match="Weights only load failed"):  # of pickle
        trainer.fit(*parts(), ckpt_path="hpc")
