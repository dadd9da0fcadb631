"""A fit that is recorded, and ended in the ways in which a cluster ends it.

``how``: ``whole``, or a way and the step of the training after which it comes: ``kill:5`` kills the process and that of
W&B at once, before W&B has written anything of late; ``kill-late:5`` waits until W&B has written its lines; ``term:5``
sends SIGTERM to both, as a queue does; ``wandb:5`` ends that of W&B alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from tests.support.repository import REPOSITORY
from tests.support.tiny_run import BASE

HOW = "RECORDED_FIT_HOW"
LOGGER = """
data: {batch_size: 2}
trainer:
  max_epochs: 3
  logger:
    class_path: lightning_mm.tracking.OfflineFirstWandbLogger
    init_args:
      project: fits
      save_dir: "${trainer.default_root_dir}"
      flush_seconds: FLUSH
      settings: {x_disable_stats: true, console: "off", x_file_stream_transmit_interval: 1.0}
  callbacks:
  - class_path: tests.support.recorded_fit.Interrupt
  - class_path: lightning.pytorch.callbacks.LearningRateMonitor
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}", filename: last, every_n_train_steps: 3, save_top_k: 1,
                enable_version_counter: false}
"""


class Interrupt(Callback):
    """Ends the process as the environment says; else does nothing."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.log("train/step", float(trainer.global_step))
        how, _, step = os.environ.get(HOW, "whole").partition(":")
        if how == "whole" or trainer.global_step != int(step):
            return
        if how == "kill-late":
            time.sleep(2)
        if how in ("term", "wandb"):
            for child in children(os.getpid(), "wandb-core"):
                os.kill(child, signal.SIGTERM)
            time.sleep(0.5)
        if how == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif how.startswith("kill"):
            for child in children(os.getpid(), "wandb-core"):
                os.kill(child, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def children(process: int, name: str) -> list[int]:
    """Numbers of the processes of a name that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = path.read_text().split(" (", 1)
        except OSError:
            continue
        command, state = rest.rsplit(") ", 1)
        if command.startswith(name[:15]) and int(state.split()[1]) == process:
            found.append(int(number))
    return found


def write_configs(folder: Path, flush: float = 0.2) -> list[str]:
    """Write the configs of the fit, and return the arguments that name them."""
    (folder / "base.yaml").write_text(BASE)
    (folder / "logger.yaml").write_text(LOGGER.replace("FLUSH", str(flush)))
    return ["-c", str(folder / "base.yaml"), "-c", str(folder / "logger.yaml")]


class Commands:
    """Runs commands in processes that are forked from one that has imported everything: seconds instead of tens.

    Args:
        environment: Variables for all of them.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        known = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "WANDB_SERVICE"))}
        known |= {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true", **environment}
        words = [sys.executable, "-W", "ignore", "-m", "tests.support.recorded_fit"]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=known
        )

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=60)

    def run(self, *words: str, how: str = "whole", **environment: str) -> Ended:
        """Run a command, and end it as ``how`` says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"words": list(words), "environment": {**environment, HOW: how}}
        self.process.stdin.write(f"{json.dumps(asked)}\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))


@dataclass(frozen=True)
class Ended:
    """How a command has ended: its code, negative for a signal, and what it has printed."""

    code: int
    text: str


def serve() -> None:
    """Read commands from the input, a line each, and run each in a child."""
    from lightning_mm import data  # noqa: F401
    from lightning_mm.cli import main
    from lightning_mm.cli.lightning import run  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile("w+") as printed:
            child = os.fork()
            if child == 0:
                os.dup2(printed.fileno(), 1)
                os.dup2(printed.fileno(), 2)
                os.environ.update(asked["environment"])
                code = 99
                try:
                    code = main(asked["words"])
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            printed.seek(0)
            print(json.dumps({"code": code, "text": printed.read()}), flush=True)


if __name__ == "__main__":
    serve()
