"""``lightning-mm demo``: train, adapt and sweep on generated scenes through the real command line.

Every step is a command that is printed before it runs, so that a newcomer can repeat and change it.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import DataNotFoundError, StepFailed

CHANNELS = {"rgb": 3, "depth": 1, "thermal": 1}
"""The modalities of :class:`lightning_mm.data.Scenes` with their channels, which each dedicated network is told."""

FAST = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
"""Settings that only show that everything runs."""


def run_demo(args: Sequence[str]) -> None:
    """Run the demo.

    Args:
        args: What stands after ``lightning-mm demo``.

    Raises:
        UsageError: If an option does not exist.
        DataNotFoundError: If the experiment files were not installed.
        StepFailed: If one of the commands failed; it has said why.
    """
    parser = Parser(
        "lightning-mm demo",
        description="Train a network on three modalities of generated scenes, adapt it to missing ones, and print what "
        "every combination costs.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder for all results (%(default)s)")
    parser.add_argument("--fast", action="store_true", help="a few batches each, to see that everything runs")
    settings = parser.parse_args(args)

    # Ten runs would each end with a page of W&B's own summary, and bury the table.
    os.environ.setdefault("WANDB_SILENT", "true")
    start = time.monotonic()
    commands = demo_commands(settings.out, experiments_folder(), settings.fast)
    for number, (title, command) in enumerate(commands, 1):
        print(f"\n[{number}/{len(commands)}] {title}\n$ {shlex.join(['lightning-mm', *command])}", flush=True)
        _run(command)
    minutes = (time.monotonic() - start) / 60
    report = settings.out / "report"
    if not settings.fast:
        print("\n" + compare(report, experiments_folder() / "expected.json"))
    print(f"\nThe report lies in {report}: sweep.md, sweep.png, sweep.csv, sweep.json ({minutes:.1f} minutes)")


def compare(report: Path, expected: Path) -> str:
    """Say how the figures of this run stand to each other and to those that are stored with the experiment.

    Args:
        report: Folder with the merged ``sweep.csv``.
        expected: JSON file with the stored figures in percent.
    """
    from lightning_mm.results.files import read

    result, stored = read(report / "sweep.csv"), json.loads(expected.read_text(encoding="utf-8"))
    zero_fill, adapted = (result.summary(method) for method in ("zero_fill", "adapted"))
    full, gain = 100 * adapted["full"], 100 * (adapted["mean"] - zero_fill["mean"])
    same = "the same figure" if adapted["full"] == zero_fill["full"] else "NOT the same figure"
    gap = result.recovered_gap("adapted")
    recovered = f"{100 * gap:.0f} %" if math.isfinite(gap) else "cannot be told, since they are no better than the base"
    near = "within 1 point" if abs(full - stored["full"]) <= 1 else "MORE than 1 point away"
    return (
        f"Full combination: {full:.1f} {result.primary_metric} before and after, {same}; stored with the experiment: "
        f"{stored['full']:.1f} ({near}).\n"
        f"Mean over incomplete combinations: {100 * zero_fill['mean']:.1f} before, {100 * adapted['mean']:.1f} after "
        f"({gain:+.1f} points); stored: {stored['mean_zero_fill']:.1f} and {stored['mean_adapted']:.1f}.\n"
        f"Recovered gap to the dedicated networks: {recovered}."
    )


def demo_commands(out: Path, experiments: Path, fast: bool = False) -> list[tuple[str, list[str]]]:
    """The commands of the demo, each with a title.

    Args:
        out: Folder for all results.
        experiments: Folder of ``base.yaml``, ``ssf.yaml`` and ``dedicated.yaml``.
        fast: Whether to stop after a few batches.
    """
    few = FAST if fast else []
    few_samples = ["--data.dataset.init_args.test_length", "8", "--bootstrap", "20"] if fast else []
    base = ["-c", str(experiments / "base.yaml")]
    adapted = [
        *base,
        "-c",
        str(experiments / "ssf.yaml"),
        "--model.init_args.base_ckpt",
        str(out / "base" / "best.ckpt"),
    ]
    commands = [
        ("train the base on complete data", ["fit", *base, *_into(out / "base"), *few]),
        ("freeze it and train its adapters", ["fit", *adapted, *_into(out / "ssf"), *few]),
    ]
    dedicated = {}
    for name, channels in CHANNELS.items():
        one = [*base, "-c", str(experiments / "dedicated.yaml"), "--data.modalities", f"[{name}]"]
        one += ["--model.init_args.model.init_args.channels", f"{{{name}: {channels}}}"]
        dedicated[name] = [*one, *_into(out / "dedicated" / name)]
        commands.append((f"train a network for {name} alone, to compare with", ["fit", *dedicated[name], *few]))
    sweep = ["sweep", *adapted, *_into(out / "ssf"), "--ckpt_path", str(out / "ssf" / "best.ckpt"), *few_samples]
    commands.append(("sweep all combinations, before and after", sweep))
    for name, one in dedicated.items():
        checkpoint = str(out / "dedicated" / name / "best.ckpt")
        command = ["sweep", *one, "--method", "dedicated", "--ckpt_path", checkpoint, *few_samples]
        commands.append((f"sweep the network for {name}", command))
    tables = [
        str(folder / "sweep" / "sweep.csv") for folder in (out / "ssf", *(out / "dedicated" / n for n in CHANNELS))
    ]
    commands.append(("one table", ["table", *tables, "--out", str(out / "report")]))
    return commands


def experiments_folder() -> Path:
    """Where the YAML files lie: beside the package in a checkout, inside it when installed from a wheel.

    Raises:
        DataNotFoundError: If they lie in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package.parent / "experiments" / "scenes", package / "_experiments" / "scenes"]
    for place in places:
        if (place / "base.yaml").is_file():
            return place
    raise DataNotFoundError(
        f"the demo's experiment files are not installed: sought {places[0]} and {places[1]}; install lightning-mm again"
    )


def _into(folder: Path) -> list[str]:
    return ["--trainer.default_root_dir", str(folder)]


def _run(command: list[str]) -> None:
    from lightning_mm.cli.dispatch import main

    code = main(command)
    if code:
        raise StepFailed(f"the demo stopped: `{shlex.join(['lightning-mm', *command])}` failed, see above", code)
