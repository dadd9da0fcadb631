"""Note what the tasks of a finished study log on validation data besides the figures of its table.

    python experiments/logged.py experiments/ravdess/study_prediction.yaml

Writes ``logged.json`` to the results of the study: method to logged key to one value per seed, of the checkpoint that
was swept. These are ``val/explained_variance`` and ``val/predicted_std`` of predicted embeddings (also by pair of
modalities), and ``val/norm_gap`` of a shared branch; the runs of a study have no logger. Validation data are whole.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_mm.cli.lightning.command_line import CommandLine
from lightning_mm.cli.lightning.run import run_lightning
from lightning_mm.compare import read_study
from lightning_mm.compare.plan import CHECKPOINT, CONFIG, Plan
from lightning_mm.compare.study import Study
from lightning_mm.files import write_atomically
from lightning_mm.results import read

KEYS = ("val/explained_variance", "val/predicted_std", "val/norm_gap")
TASKS = ("embedding_prediction", "single_branch")
"""Recipes whose tasks log them, by the start of their names."""


class Validating(CommandLine):
    """Keeps what a validation logs."""

    def after_validate(self) -> None:
        self.facts = {key: float(value) for key, value in self.trainer.callback_metrics.items()}


def logged(study: Study, chosen: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Validate every network of these methods; method to key to values in the order of the seeds."""
    plan, found = Plan(study), dict[str, dict[str, list[float]]]()
    swept = read(study.results / "sweep.csv").methods
    for method in (one for one in study.methods if one.name in swept):
        like = (study.content["methods"].get(method.name) or {}).get("like", method.name)
        for seed in study.seeds if str(like).startswith(TASKS) else ():
            folder = plan.fit(method, None, seed, (chosen.get(method.name) or {}).get("value")).folder
            command = ["validate", "-c", str(folder / CONFIG), "--ckpt_path", str(folder / CHECKPOINT)]
            for key, value in run_lightning(command, command_line=Validating).items():
                if key.startswith(KEYS):
                    found.setdefault(method.name, {}).setdefault(key, []).append(round(value, 5))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path)
    for path in parser.parse_args().studies:
        study = read_study(path)
        chosen = json.loads((study.results / "study.json").read_text(encoding="utf-8"))["chosen"]
        text = json.dumps(logged(study, chosen), indent=1)
        print(write_atomically(study.results / "logged.json", f"{text}\n"))


if __name__ == "__main__":
    main()
