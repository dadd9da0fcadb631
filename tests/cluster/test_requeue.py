"""A job of two nodes whose command asks to be queued again ends with the same bits as one that was left alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.repository import REPOSITORY
from tests.support.signal_at import SIGNAL_AT
from tests.support.tiny_run import BASE

pytestmark = pytest.mark.slow

MORE = """
data: {num_workers: 1, dataset: {init_args: {train_length: 24}}}
trainer:
  num_sanity_val_steps: 0
  max_epochs: 2
  devices: 1
  num_nodes: 2
  strategy: ddp
  callbacks:
  - class_path: lightning_mm.callbacks.KeyedSeed
  - class_path: lightning_mm.callbacks.FrozenBackboneAdapter
  - class_path: tests.support.signal_at.SignalAt
  - class_path: tests.support.batch_record.BatchRecord
  - class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {dirpath: "${trainer.default_root_dir}", filename: best, save_last: true, enable_version_counter: false}
"""
SCRIPT = """#!/bin/bash
export MASTER_PORT=$((20000 + SLURM_JOB_ID))
srun --kill-on-bad-exit=1 %(python)s -m lightning_mm fit -c base.yaml -c more.yaml --ckpt_path auto \\
  --trainer.default_root_dir "$1"
code=$?
echo "the step ended with $code"
[ $code != 75 ] || { scontrol requeue "$SLURM_JOB_ID"; sleep 60; }
exit $code
"""


def test_a_job_that_was_requeued_ends_with_the_same_bits(slurm: object, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "more.yaml").write_text(MORE)
    (tmp_path / "job.sh").write_text(SCRIPT % {"python": sys.executable})
    options = ["-N2", "--ntasks-per-node=1", "--requeue", "--open-mode=append"]
    jobs = {}
    for name, at in (("whole", ""), ("requeued", "requeued SIGUSR2 self")):
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **({SIGNAL_AT: at} if at else {})}
        command = ["sbatch", "--parsable", *options, "-o", f"{name}.out", "job.sh", name]
        jobs[name] = subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()
    facts = {name: ended(job) for name, job in jobs.items()}
    said = {name: (tmp_path / f"{name}.out").read_text() for name in jobs}
    assert [facts[name]["JobState"] for name in jobs] == ["COMPLETED", "COMPLETED"], said
    assert [facts[name]["Restarts"] for name in jobs] == ["0", "1"], said
    assert "the step ended with 75" in said["requeued"]
    assert "goes on from requeued/resume.ckpt, step 2" in said["requeued"]
    one, two = (torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in jobs)
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    for rank in (0, 1):
        one, two = ((tmp_path / name / f"batches.{rank}.txt").read_text() for name in jobs)
        assert one == two, "no batch is trained twice or left out"


def ended(job: str) -> dict[str, str]:
    """What Slurm says of a job once it has ended."""
    end = time.monotonic() + 240
    while True:
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
        facts = dict(re.findall(r"(\w+)=(\S*)", shown))
        if facts["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT") or time.monotonic() > end:
            return facts
        time.sleep(0.5)
