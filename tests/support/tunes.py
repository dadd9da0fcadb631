"""Searches whose trials only write what training and validation would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lightning_mm.compare.plan import Step
from lightning_mm.compare.step_runner import perform
from lightning_mm.compare.tuning import Tune, read_tune
from lightning_mm.errors import NotApplicableError

LR, WIDTH = "model.lr", "model.width"
PARAMETERS: dict[str, Any] = {LR: {"values": [0.1, 0.2]}, WIDTH: {"values": [8, 16]}}
RANGES: dict[str, Any] = {
    LR: {"min": 1e-3, "max": 0.5, "distribution": "log_uniform_values"},
    WIDTH: {"min": 4, "max": 64},
}
TOO_HIGH = 0.6
"""The learning rate from which on trainings diverge."""
COMMANDS = "commands.txt"
"""File in the folder of the search that lists the steps that were run."""


def write_tune(folder: Path, **content: Any) -> Path:
    """Write a search with its configs; ``content`` replaces keys of a working grid, None removes one."""
    (folder / "base.yaml").write_text("data: {modalities: [a, b, c]}\n")
    (folder / "ssf.yaml").write_text("trainer: {max_epochs: 1}\n")
    given = {
        "config": ["base.yaml", "ssf.yaml"], "method": "grid", "seeds": [0, 1], "parameters": PARAMETERS,
        "metric": {"name": "val/accuracy", "goal": "maximize"}, "out": str(folder / "out"), **content,
    }  # fmt: skip
    path = folder / "tune.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in given.items() if value is not None}, sort_keys=False))
    return path


def read(folder: Path, **content: Any) -> Tune:
    """Write and read a search."""
    return read_tune(write_tune(folder, **content))


def figure(values: Any, seed: int) -> float:
    """The validation accuracy of a trial."""
    return float(values[LR]) + float(values[WIDTH]) / 1000 + seed / 100


def fake_trial(step: Step) -> dict[str, Any]:
    """Perform a step with :func:`fake_command`."""
    return perform(step, lambda command: fake_command(step, command))


def fake_command(step: Step, command: list[str]) -> dict[str, Any]:
    """Do what the command of a step would do."""
    if "--print_config" in command:
        callbacks = [
            {"class_path": "x.Adapter", "init_args": {"kind": {"class_path": "LoRA", "init_args": {"rank": 4}}}}
        ]
        trainer = {"callbacks": callbacks}
        print(yaml.safe_dump({"seed_everything": 0, "trainer": trainer, "model": {}, "data": {"modalities": ["a"]}}))
        raise SystemExit(0)
    seed = int(step.folder.name.removeprefix("seed"))
    with (step.folder.parents[1] / COMMANDS).open("a") as file:
        file.write(f"{step.folder.parent.name}/{step.folder.name} {command[0]}\n")
    if command[0] == "fit":
        if step.overrides[LR] > TOO_HIGH:
            raise NotApplicableError("the training loss is nan")
        (step.folder / "best.ckpt").write_text("weights")
        return {"seconds": 3.0, "cpu_seconds": 2.0, "trained": 7}
    assert command[0] == "validate"
    accuracy = figure(step.overrides, seed)
    return {"metrics": {"val/accuracy": accuracy, "val/loss": 1 - accuracy}}
