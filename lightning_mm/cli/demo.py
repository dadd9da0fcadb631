"""``lightning-mm demo``: train, adapt and sweep on generated scenes, as ``experiments/scenes/study_demo.yaml`` says.

Every step is a command that is printed before it runs, so that a newcomer can repeat and change it.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_mm.cli.compare import FAST, compare, perform_step
from lightning_mm.cli.errors import Parser
from lightning_mm.errors import DataNotFoundError

if TYPE_CHECKING:
    from lightning_mm.compare.plan import Step
    from lightning_mm.results.result import SweepResult


def run_demo(args: Sequence[str]) -> None:
    """Run the demo.

    Args:
        args: The words after ``lightning-mm demo``.

    Raises:
        UsageError: If an option does not exist.
        DataNotFoundError: If the experiment files are not installed.
        StepError: If one of the commands fails.
    """
    parser = Parser(
        "lightning-mm demo",
        description="Train a network on three modalities of generated scenes, adapt it to missing ones, and print what "
        "every combination costs.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder for all results (%(default)s)")
    parser.add_argument("--fast", action="store_true", help="a few batches each, to see that everything runs")
    options = parser.parse_args(args)

    from lightning_mm.compare import read_study
    from lightning_mm.compare.plan import Plan

    start, folder = time.monotonic(), experiments_folder()
    report = options.out / "report"
    study = replace(read_study(folder / "study_demo.yaml"), out=options.out, results=report)
    if options.fast:
        study = replace(study, settings={**FAST, "data.dataset.init_args.test_length": 8}, bootstrap=20)
    # A study skips finished steps; the demo shows them all, with the code as it is now.
    for step in Plan(study).steps({}):
        step.marker.unlink(missing_ok=True)
    result = compare(study, show_and_perform, command=shlex.join(["lightning-mm", "demo", *args]))
    if not options.fast:
        print("\n" + against_stored(result, folder / "expected.json"))
    minutes = (time.monotonic() - start) / 60
    files = "sweep.md, sweep.png, sweep.csv, sweep.json, report.html"
    print(f"\nThe report is in {report}: {files} ({minutes:.1f} minutes)")


def show_and_perform(step: Step) -> dict[str, Any]:
    """Perform a step in a worker; its command is printed first."""
    from lightning_mm.compare.recipes import RECIPES

    if step.command:
        command = shlex.join(["lightning-mm", *step.command])
        print(f"\n{step.method}: {RECIPES[step.method].what}\n$ {command}", flush=True)
    return perform_step(step)


def against_stored(result: SweepResult, expected: Path) -> str:
    """Compare the figures of this run with each other and with those stored with the experiment.

    Args:
        result: The table of the demo.
        expected: JSON file with the stored figures in percent.
    """
    stored = json.loads(expected.read_text(encoding="utf-8"))
    zero_fill, adapted = (result.summary(method) for method in ("zero_fill", "adapted"))
    full, gain = 100 * adapted["full"], 100 * (adapted["mean"] - zero_fill["mean"])
    same = "the same figure" if adapted["full"] == zero_fill["full"] else "NOT the same figure"
    gap = result.recovered_gap("adapted")
    recovered = f"{100 * gap:.0f} %" if math.isfinite(gap) else "unknown, since they are no better than the base"
    near = "within 1 point" if abs(full - stored["full"]) <= 1 else "MORE than 1 point away"
    return (
        f"Full combination: {full:.1f} {result.primary_metric} before and after, {same}; stored with the experiment: "
        f"{stored['full']:.1f} ({near}).\n"
        f"Mean over incomplete combinations: {100 * zero_fill['mean']:.1f} before, {100 * adapted['mean']:.1f} after "
        f"({gain:+.1f} points); stored: {stored['mean_zero_fill']:.1f} and {stored['mean_adapted']:.1f}.\n"
        f"Recovered gap to the dedicated networks: {recovered}."
    )


def experiments_folder() -> Path:
    """The folder of the YAML files: next to the package in a checkout, inside it when installed from a wheel.

    Raises:
        DataNotFoundError: If both are missing.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package.parent / "experiments" / "scenes", package / "_experiments" / "scenes"]
    for place in places:
        if (place / "base.yaml").is_file():
            return place
    raise DataNotFoundError(
        f"the demo's experiment files were not found at {places[0]} and {places[1]}; install lightning-mm again"
    )
