"""Fits under Slurm that are warned at a named moment, and what is left of them afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_mm.callbacks import ResumeCheckpoint
from tests.support.tiny_run import BASE

WARN_AT = "WARN_AT"
"""Environment variable: one of ``MOMENTS``, at which the first start of a job is warned."""
MOMENTS = (
    "before the first batch",
    "first batch of an epoch",
    "in accumulated gradients",
    "in validation",
    "last batch of an epoch",
    "while a checkpoint is saved",
)
MORE = """
data:
  num_workers: 1
  dataset: {init_args: {train_length: 40, val_length: 16}}
  train_policy: {class_path: lightning_mm.missing.UniformCombinations, init_args: {include_full: false}}
trainer:
  max_epochs: 3
  accumulate_grad_batches: 2
  val_check_interval: 4
  num_sanity_val_steps: 0
  callbacks:
  - class_path: lightning_mm.callbacks.KeyedSeed
  - class_path: lightning_mm.callbacks.FrozenBackboneAdapter
  - class_path: tests.support.moments.WarnAt
  - class_path: tests.support.batch_record.BatchRecord
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}", filename: best, save_last: true, enable_version_counter: false}
"""
"""Of ten batches (five on each of two ranks), validated after every fourth: the last step of an epoch is half a one on
two ranks, and the middle of an epoch is between two validations."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class WarnAt(Callback):
    """Lets Slurm send its warning at a moment of the second epoch, and waits until it has come in through the script.

    Validation and saving: those of the first epoch. The other ranks get it when they get it.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._at("before the first batch", trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch != 1:
            return
        if batch_idx == 0:
            self._at("first batch of an epoch", trainer)
        if batch_idx == 2:
            self._at("in accumulated gradients", trainer)
        if batch_idx == int(trainer.num_training_batches) - 1:
            self._at("last batch of an epoch", trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self._at("in validation", trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._at("while a checkpoint is saved", trainer)

    @staticmethod
    def _at(moment: str, trainer: Trainer) -> None:
        first_start = os.environ.get("LIGHTNING_MM_RESTARTS") == "0"
        if os.environ.get(WARN_AT) != moment or not trainer.is_global_zero or not first_start:
            return
        (resume,) = (one for one in trainer.callbacks if isinstance(one, ResumeCheckpoint))  # type: ignore[attr-defined]
        assert resume.signals is not None
        if resume.signals.received is None:
            # what Slurm does --warn_before seconds before the time limit
            subprocess.run(["scancel", "--batch", "--signal=USR2", os.environ["SLURM_JOB_ID"]], check=True)
        end = time.monotonic() + 30
        while resume.signals.received is None and time.monotonic() < end:
            time.sleep(0.05)
        assert resume.signals.received is not None, "the warning did not come in"


@dataclass(frozen=True)
class Fit:
    """A submitted fit.

    Args:
        folder: That of its run.
        job: Its id.
    """

    folder: Path
    job: str

    def wait(self, seconds: float = 300) -> dict[str, str]:
        """What Slurm says of it once it has ended."""
        end = time.monotonic() + seconds
        while True:
            command = ["scontrol", "show", "job", self.job]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            facts = dict(re.findall(r"(\w+)=(\S*)", shown))
            if facts["JobState"] in ENDED or time.monotonic() > end:
                return facts
            time.sleep(0.5)

    @property
    def log(self) -> str:
        """What all of its starts have printed."""
        return (self.folder / "jobs" / "fit" / f"{self.job}.log").read_text()

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What it has trained."""
        found: dict[str, torch.Tensor] = torch.load(self.folder / "last.ckpt", weights_only=True)["state_dict"]
        return found

    @property
    def batches(self) -> dict[str, str]:
        """Rank to the samples of every trained batch, in their order."""
        return {path.name: path.read_text() for path in sorted(self.folder.glob("batches.*.txt"))}

    def is_equal(self, other: Fit) -> bool:
        """Whether it has trained, and the same weights, to the bit."""
        one, two = self.weights, other.weights
        trained = all(weights.count_nonzero() for weights in one.values())
        return trained and set(one) == set(two) and all(torch.equal(one[key], two[key]) for key in one)


def submit_fit(folder: Path, nodes: int, moment: str = "", more: str = MORE) -> Fit:
    """Submit the fit with ``lightning-mm submit slurm``.

    Args:
        folder: Its configs are written there, and its run is a folder in it.
        nodes: Nodes with a rank each.
        moment: One of ``MOMENTS``, or empty to leave it alone.
        more: The config over ``BASE``.
    """
    from lightning_mm.cli import main

    name = f"{moment or 'whole'} {nodes}".replace(" ", "-")
    (folder / "base.yaml").write_text(BASE)
    (folder / "more.yaml").write_text(more)
    os.environ[WARN_AT] = moment
    words = [
        "submit",
        "slurm",
        "--nodes",
        str(nodes),
        "--cpus_per_task",
        "2",
        "--time",
        "20",
        "--name",
        name,
        "--",
        "fit",
    ]
    words += ["-c", str(folder / "base.yaml"), "-c", str(folder / "more.yaml")]
    with redirect_stdout(StringIO()) as said:
        code = main([*words, "--trainer.default_root_dir", str(folder / name)])
    assert code == 0, said.getvalue()
    return Fit(folder / name, said.getvalue().partition("job ")[2].partition(":")[0])
