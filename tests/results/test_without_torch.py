"""Results are read, printed, merged and reported without torch, Lightning and matplotlib: these take seconds."""

from __future__ import annotations

import subprocess
import sys

from tests.support.repository import REPOSITORY

CODE = """
import sys, tempfile
import lightning_mm.results
from lightning_mm.cli import main
scenes = "experiments/results/scenes"
figures = ["--against", "zero_fill", "--robustness", "--bootstrap", "20"]
assert main(["table", scenes, "experiments/results/scenes/sweep.csv", *figures]) == 0
assert main(["rescore", scenes, "--metric", "mf1", "--bootstrap", "0"]) == 0
assert main(["importance", scenes, "--methods", "adapted", "--per_class", "--bootstrap", "20"]) == 0
assert len(lightning_mm.results.load_results(scenes).combinations["value"]) == 136
with tempfile.TemporaryDirectory() as folder:
    assert main(["report", scenes, "--out", f"{folder}/report.html"]) == 0
heavy = sorted({"torch", "lightning", "wandb", "matplotlib", "jaxtyping"} & set(sys.modules))
sys.exit(", ".join(heavy) or 0)
"""


def test_results_and_table_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "recovered gap" in done.stdout
