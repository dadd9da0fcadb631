"""A job of two nodes that is warned and queued again ends with the same bits as one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.moments import submit_fit
from tests.support.repository import REPOSITORY

pytestmark = pytest.mark.slow


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
