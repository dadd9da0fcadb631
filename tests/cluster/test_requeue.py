"""A job of two nodes that is warned and queued again ends with the same bits as one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.moments import MORE, submit_fit
from tests.support.repository import REPOSITORY
from tests.support.wandb_server import environment, running_server

pytestmark = pytest.mark.slow

LOGGER = """
trainer:
  logger:
    class_path: lightning_mm.tracking.OfflineFirstWandbLogger
    init_args:
      project: fits
      save_dir: "${trainer.default_root_dir}"
      flush_seconds: 0.2
      settings: {x_disable_stats: true, console: "off", x_file_stream_transmit_interval: 1.0}
"""
WANDB = MORE.replace("\ntrainer:\n", LOGGER, 1).replace(
    "  callbacks:\n", "  callbacks:\n  - class_path: lightning.pytorch.callbacks.LearningRateMonitor\n", 1
)


def test_a_job_that_was_requeued_ends_with_the_same_bits(
    slurm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the cases of ``tests/cluster/moments.py``, which runs them all."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    whole, requeued = (submit_fit(tmp_path, 2, moment) for moment in ("", "in accumulated gradients"))
    facts = [fit.wait() for fit in (whole, requeued)]
    assert [one["JobState"] for one in facts] == ["COMPLETED", "COMPLETED"], requeued.log
    assert [one["Restarts"] for one in facts] == ["0", "1"], requeued.log
    assert "is queued again, time 1 of 20" in requeued.log
    assert "resume.ckpt, step 5" in requeued.log
    assert requeued.is_equal(whole)
    assert requeued.batches == whole.batches, "no batch is trained twice or left out"
    assert list(whole.batches) == ["batches.0.txt", "batches.1.txt"]


def test_over_a_requeue_it_is_one_run_of_wandb(slurm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online, and offline with ``wandb sync`` afterwards: every step once, strictly rising, without a gap."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    with running_server() as server:
        known = environment(server, str(tmp_path / "client"))
        for name, value in known.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("WANDB_DATA_DIR")
        fits = {}
        for mode in ("online", "offline"):
            (tmp_path / mode).mkdir()
            monkeypatch.setenv("WANDB_MODE", mode)
            fits[mode] = submit_fit(tmp_path / mode, 1, "in accumulated gradients", WANDB)
        for fit in fits.values():
            facts = fit.wait()
            assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), fit.log
        ids = {mode: json.loads((fit.folder / "wandb_run.json").read_text())["id"] for mode, fit in fits.items()}
        assert set(server.runs) == {ids["online"]}
        *_, words = (line for line in fits["offline"].log.splitlines() if line.startswith("wandb sync "))
        assert len(list((fits["offline"].folder / "wandb").glob("offline-run-*"))) == 2
        command = [sys.executable, "-m", *words.split()]
        subprocess.run(command, env={**os.environ, **known}, check=True, capture_output=True, timeout=120)
        assert set(server.runs) == set(ids.values())
        for name in ids.values():
            run = server.runs[name]
            assert [line["_step"] for line in run.history] == list(range(15))
            assert [line["trainer/global_step"] for line in run.history] == list(range(15))
            assert all("lr-AdamW" in line for line in run.history)
            assert sum("train/loss" in line for line in run.history) == 3
            assert not [offset for offset, count in Counter(run.writes).items() if count > 1], "no line is sent twice"
