"""Commands of several processes that are stopped or killed leave nobody behind: ranks, and workers of a study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support.kill_server import ENDS_WITHIN, living
from tests.support.repository import REPOSITORY
from tests.support.signal_at import SIGNAL_AT
from tests.support.tiny_run import BASE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

CALLBACKS = """
trainer:
  num_sanity_val_steps: 0
  max_epochs: 2
  callbacks:
  - class_path: tests.support.signal_at.SignalAt
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}", filename: best, save_last: true, enable_version_counter: false}
data: {dataset: {init_args: {train_length: 24}}}
"""
STUDY = """
config: [base.yaml, callbacks.yaml]
methods: {zero_fill: , modality_dropout: }
"""


def ended(folder: Path, args: list[str], at: str, code: int) -> str:
    """Run a command that gets a signal, and look at how it ends."""
    (folder / "base.yaml").write_text(BASE)
    (folder / "callbacks.yaml").write_text(CALLBACKS)
    (folder / "study.yaml").write_text(STUDY)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), SIGNAL_AT: at}
    command = [sys.executable, "-m", "lightning_mm", *args]
    run = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # The tests may run where Ctrl-C is ignored: a shell's background job.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    _, said = run.communicate(timeout=300)
    end = time.monotonic() + ENDS_WITHIN
    while (left := living(run.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    assert (run.returncode, left) == (code, []), said
    assert code == -9 or "Traceback" not in said, said
    return said


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGKILL", -9)])
def test_ranks(tmp_path: Path, name: str, code: int) -> None:
    args = ["fit", "-c", "base.yaml", "-c", "callbacks.yaml", "--trainer.default_root_dir", "run"]
    said = ended(tmp_path, [*args, "--trainer.devices", "2", "--trainer.strategy", "ddp"], f"run {name} self", code)
    if name != "SIGKILL":
        assert said.count("lightning-mm: stopped by ") == 1
        assert (tmp_path / "run" / "resume.ckpt").is_file()


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGKILL", -9)])
def test_workers_of_a_study(tmp_path: Path, name: str, code: int) -> None:
    args = ["compare", "-c", "study.yaml", "--out", "out", "--set", "data.num_workers=1"]
    said = ended(tmp_path, args, f"base/seed0 {name} parent", code)
    assert said.count("lightning-mm: stopped by ") == (name != "SIGKILL")
    assert not list(tmp_path.rglob("*.done.json")), "no step goes on, and none is started"
