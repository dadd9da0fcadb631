"""Results are read, printed, merged and reported without torch, Lightning and matplotlib: these take seconds."""

from __future__ import annotations

import subprocess
import sys

from tests.support.repository import REPOSITORY

CODE = """
import sys, tempfile
import lightning_mm.results
from lightning_mm.cli import main
assert main(["table", "experiments/results/scenes", "experiments/results/scenes/sweep.csv"]) == 0
with tempfile.TemporaryDirectory() as folder:
    assert main(["report", "experiments/results/scenes", "--out", f"{folder}/report.html"]) == 0
heavy = sorted({"torch", "lightning", "wandb", "matplotlib", "jaxtyping"} & set(sys.modules))
sys.exit(", ".join(heavy) or 0)
"""


def test_results_and_table_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "recovered gap" in done.stdout
