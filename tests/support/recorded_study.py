"""A small study on disk that is recorded: ``python -m tests.support.recorded_study FOLDER MODE [POINT]`` kills itself.

Points: ``opened``, the run is there, empty; ``figures``, its first line is logged; ``pictures``, its third line, which
is that of the pictures if it has a table; ``artifacts``, its artifacts are logged; ``finished``, W&B is done and the
ledger does not know it yet.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightning_mm.compare import InProcess, collect, draw, run_study, write
from lightning_mm.compare.record import record_study
from lightning_mm.results import read as read_sweep
from lightning_mm.results.files import write_samples
from tests.support.studies import fake_command, read

POINTS = ("opened", "figures", "pictures", "artifacts", "finished")
PROJECT, SEED = "studies", 1
FINGERPRINT = "ab" * 16
SECRET = "do-not-send-this"


def finish_study(folder: Path) -> Any:
    """Run the study with steps that only write files; each ``adapted`` sweep has an adapter next to it."""
    from lightning_mm.compare.step_runner import perform

    def command(step: Any, words: list[str]) -> dict[str, Any]:
        facts = fake_command(step, words)
        if step.stage == "test":
            add_samples(step.folder / "sweep")
        if step.stage == "test" and step.method == "adapted":
            adapter = step.folder / "sweep" / "adapter"
            adapter.mkdir(parents=True, exist_ok=True)
            (adapter / "adapter_model.safetensors").write_bytes(b"weights " + str(step.folder.name).encode())
            config = {"base_fingerprint": FINGERPRINT, "kind": {"class_path": "SSF"}, "modalities": ["a", "b", "c"]}
            (adapter / "adapter_config.json").write_text(json.dumps(config))
        return facts

    settings = {"model.api_key": SECRET, "model.other": "${oc.env:LIGHTNING_MM_TEST_SECRET}"}
    wandb = {"project": PROJECT, "save_dir": str(folder / "runs"), "tags": ["mine"], "flush_seconds": 1.0}
    study = read(
        folder,
        name="tiny",
        seeds=[SEED],
        out=str(folder / "out"),
        results=str(folder / "report"),
        wandb=wandb,
        settings=settings,
    )
    facts, choices = run_study(study, InProcess(lambda step: perform(step, lambda words: command(step, words))), str)
    result = collect(study, facts, choices)
    write(study, facts, choices, result)
    return study, facts, choices, result


def add_samples(folder: Path) -> None:
    """Predictions of four samples for every combination, which pictures are drawn from."""
    result = read_sweep(folder)
    result.samples = {"index": np.arange(4)}
    for combination in result.combinations:
        result.samples[f"{result.methods[0]}/{combination}/prediction"] = np.array([0, 1, 1, 1])
        result.samples[f"{result.methods[0]}/{combination}/target"] = np.array([0, 1, 0, 1])
    write_samples(result, folder / "sweep_samples.npz")


def record(folder: Path) -> dict[str, str]:
    """Record the study; what a command would do at its end."""
    study, facts, choices, result = finish_study(folder)
    assert len(read_sweep(study.results).rows) == len(result.rows), "the table is on the disk first"
    return record_study(study, facts, choices, result, draw(study, facts, choices, result))


def kill_at(point: str, which: int) -> None:
    """Kill this process at a point of the run number ``which``, from 0."""
    import wandb
    from wandb.sdk.wandb_run import Run

    opened = [-1]
    lines = [0]

    def after(original: Callable[..., Any], dies: Callable[[], bool], before: bool = False) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if before and dies():
                os.kill(os.getpid(), signal.SIGKILL)
            found = original(*args, **kwargs)
            if not before and dies():
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return call

    def opens() -> bool:
        opened[0] += 1
        lines[0] = 0
        return point == "opened" and opened[0] == which

    def logs() -> bool:
        lines[0] += 1
        return opened[0] == which and (point, lines[0]) in (("figures", 1), ("pictures", 3))

    def here(name: str) -> Callable[[], bool]:
        return lambda: point == name and opened[0] == which

    wandb.init = after(wandb.init, opens)
    Run.log = after(Run.log, logs)  # type: ignore[method-assign]
    Run.log_artifact = after(Run.log_artifact, here("artifacts"))  # type: ignore[method-assign]
    Run.finish = after(Run.finish, here("finished"))  # type: ignore[method-assign]


if __name__ == "__main__":
    os.environ["WANDB_MODE"] = sys.argv[2]
    if len(sys.argv) > 3:
        kill_at(sys.argv[3], int(sys.argv[4]))
    print(json.dumps(record(Path(sys.argv[1]))))
