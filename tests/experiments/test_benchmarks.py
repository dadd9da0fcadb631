"""The benchmarks run and write their tables; what they measure is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY

BENCHMARKS = REPOSITORY / "experiments" / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "only", "rows"),
    [
        ("adapters", ["absent"], 6),
        ("sweeps", ["base", "--batches", "1"], 2),
        ("training", ["loop", "--steps", "1"], 1),
    ],
)
def test_a_table_of_ratios(tmp_path: Path, script: str, only: list[str], rows: int) -> None:
    file = str(BENCHMARKS / f"{script}.py")
    command = [sys.executable, file, "--pairs", "1", "--out", str(tmp_path), "--only", *only]
    subprocess.run(command, check=True, capture_output=True, text=True)
    results = json.loads((tmp_path / f"{script}.json").read_text(encoding="utf-8"))
    assert len(results["rows"]) == rows
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in results["rows"])
    table = (tmp_path / f"{script}.md").read_text(encoding="utf-8")
    assert table.count("\n| ") == rows


@pytest.mark.slow
def test_the_peak_memory_of_a_reference_network() -> None:
    command = [sys.executable, str(BENCHMARKS / "reference_networks.py"), "--memory", "MulT, 24 x 50 steps", "ssf"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert float(found.split()[-1]) > 1, "megabytes"
