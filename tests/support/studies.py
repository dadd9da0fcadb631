"""Studies whose steps only write what training and sweeping would write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lightning_mm.compare import Study, read_study
from lightning_mm.compare.plan import Plan, Step
from lightning_mm.compare.step_runner import perform
from lightning_mm.errors import NotApplicableError
from lightning_mm.results import SweepResult, SweepRow, write_csv, write_json

METHODS = {"zero_fill": None, "adapted": {"configs": ["ssf.yaml"], "tune": {"model.lr": [0.1, 0.2]}}}
VALUES = {"lr=0.1": 0.5, "lr=0.2": 0.6, "lr=0.7": float("nan"), "lr=0.8": float("nan")}
COMBINATIONS = ("a", "b", "c", "a+b", "a+c", "b+c", "a+b+c")
COMMANDS = "commands.txt"
"""File next to the folders of methods that lists the commands that were run."""


def write_study(folder: Path, **content: Any) -> Path:
    """Write a study with its configs; ``content`` replaces keys of a working one."""
    (folder / "base.yaml").write_text("data: {modalities: [a, b, c]}\n")
    (folder / "ssf.yaml").write_text("trainer: {max_epochs: 1}\n")
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump({"seeds": [0, 1], "methods": METHODS, **content}, sort_keys=False))
    return study


def read(folder: Path, **content: Any) -> Study:
    """Write and read a study."""
    return read_study(write_study(folder, **content))


def first_step(folder: Path) -> Step:
    """The training of a study's base."""
    return Plan(read(folder, out=str(folder / "a" / "b" / "out"))).steps({})[0]


def fake(step: Step) -> dict[str, Any]:
    """Perform a step with :func:`fake_command`."""
    return perform(step, lambda command: fake_command(step, command))


def fake_command(step: Step, command: list[str]) -> dict[str, Any]:
    """Write what the command of a step would write."""
    if "--print_config" in command:
        print(yaml.safe_dump({"seed_everything": 0, "trainer": {}, "model": {}, "data": {"modalities": ["a"]}}))
        raise SystemExit(0)
    method = next(path for path in (step.folder, *step.folder.parents) if path.name == step.method)
    with (method.parent / COMMANDS).open("a") as file:
        file.write(f"{step.folder.relative_to(method.parent)} {step.stage}\n")
    if step.method == "bn_refit":
        raise NotApplicableError("no BatchNorm in this network")
    if command[0] == "fit":
        (step.folder / "best.ckpt").write_text("weights")
        return {"seconds": 3.0, "cpu_seconds": 2.0, "trained": 7}
    value = next((value for part, value in VALUES.items() if part in str(step.folder)), 0.4)
    seed = int(step.folder.name.removeprefix("seed"))
    rows = [
        SweepRow(step.method, name, name.count("+") + 1, "accuracy", value + seed / 100, 9, seed)
        for name in COMBINATIONS
    ]
    result = SweepResult(rows, ["a", "b", "c"], "accuracy", parameters={step.method: {"trained": 5, "base": 50}})
    folder = Path(command[command.index("--out") + 1])
    write_csv(result, folder / "sweep.csv")
    write_json(result, folder / "sweep.json")
    return {}


def fail(step: Step) -> dict[str, Any]:
    """Fail."""
    raise RuntimeError("out of luck")
