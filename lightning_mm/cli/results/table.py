"""``lightning-mm table A/sweep.csv B/sweep.csv [--out FOLDER]``: several sweeps side by side."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import LightningMMError, UsageError

if TYPE_CHECKING:
    from lightning_mm.results.figures import Figure
    from lightning_mm.results.result import SweepResult
    from lightning_mm.results.robust import Scenario

Writer = Callable[[Path], Path]
"""Writes a file into a folder, and returns where it is."""


def run_table(args: list[str]) -> None:
    """Merge sweeps, print the table, and with ``--out`` write CSV, JSON, Markdown and the heat map."""
    parser = Parser(
        "lightning-mm table",
        description="Put the results of several sweeps side by side in one table; with --against also the difference "
        "from one method, paired sample by sample, and with --robustness areas, expectations and calibration.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "sweeps", nargs="+", type=Path, metavar="SWEEP", help="a sweep.csv, or the folder that holds it"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the merged sweep.csv, .json, .md and .png, robustness.csv, p_missing.csv, .png, against.csv",
    )
    parser.add_argument("--metric", help="the figure to show; by default the task's primary one")
    _add_figures(parser)
    settings = parser.parse_args(args)
    scenarios = _scenarios(settings)
    if settings.bootstrap < 0:
        raise UsageError(f"--bootstrap: expected 0 or more, got {settings.bootstrap}")

    from lightning_mm.results.files import read, save
    from lightning_mm.results.merge import merge
    from lightning_mm.results.terminal import print_table

    result = merge([read(path) for path in settings.sweeps])
    if settings.metric is not None and settings.metric not in result.metrics:
        raise UsageError(f"--metric: these sweeps have {', '.join(result.metrics)}; got {settings.metric!r}")
    for option in ("against", "reference"):
        method = getattr(settings, option)
        if method is not None and method not in result.methods:
            raise UsageError(f"--{option}: these sweeps have {', '.join(result.methods)}; got {method!r}")
    print_table(result, settings.metric)
    more: list[Writer] = []
    _policies(result, settings.metric)
    if settings.against is not None:
        more.append(_against(result, settings))
    if settings.robustness:
        more.append(_robustness(result, settings, scenarios))
        more += _curves(result, settings)
    if settings.out is not None:
        written = [*save(result, settings.out).values(), *(write(settings.out) for write in more)]
        print("written: " + ", ".join(map(str, written)))


def _add_figures(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--against",
        metavar="METHOD",
        help="how much better every other method is than this one, in every combination: difference with an interval "
        "of paired resamples of the stored samples, and the share of resamples in which it is better",
    )
    parser.add_argument(
        "--robustness",
        action="store_true",
        help="area under the curve and the drop by number of missing modalities, relative and effective robustness, "
        "expectations under given availability, the curve over the probability that a modality is missing, 0 to 0.9, "
        "and calibration (ECE, Brier) if probabilities are stored",
    )
    parser.add_argument(
        "--reference",
        metavar="METHOD",
        help="what effective robustness compares with; by default the method of --against, or zero_fill",
    )
    parser.add_argument(
        "--p_available",
        nargs="+",
        action="append",
        default=[],
        metavar="MODALITY=P",
        help="with --robustness: how often each modality is available, e.g. rgb=0.99 depth=0.8; others always are; may "
        "be given several times",
    )
    parser.add_argument(
        "--p_missing",
        nargs="+",
        type=float,
        metavar="P",
        help="with --robustness: probabilities with which every modality is missing; by default 0.2 0.1 0.05",
    )
    parser.add_argument("--bootstrap", type=int, default=1000, help="paired resamples; 0 for no intervals")


def _scenarios(settings: Namespace) -> list[dict[str, float]]:
    """The settings of ``--p_available``."""
    found = []
    for given in settings.p_available:
        one: dict[str, float] = {}
        text = re.sub(r"\s*[:=]\s*", "=", " ".join(given).strip("{} "))  # as in YAML, or as on a command line
        for word in re.split(r"[,\s]+", text):
            name, equals, text = word.partition("=")
            try:
                p = float(text)
            except ValueError:
                p = -1.0
            if not equals or not 0 <= p <= 1:
                raise UsageError(f"--p_available: expected MODALITY=P with P between 0 and 1, got {word!r}")
            if name in one:
                raise UsageError(f"--p_available: {name!r} is there twice; give --p_available again for another case")
            one[name] = p
        found.append(one)
    if (found or settings.p_missing or settings.reference) and not settings.robustness:
        raise UsageError("--p_available, --p_missing and --reference belong to --robustness; add it")
    for p in settings.p_missing or ():
        if not 0 <= p < 1:
            raise UsageError(f"--p_missing: expected numbers of at least 0 and below 1, got {p:g}")
    return found


def _against(result: SweepResult, settings: Namespace) -> Writer:
    """Print the differences, and return what writes them."""
    from lightning_mm.results.per_sample.paired import differences
    from lightning_mm.results.robust.tables import print_differences, write_differences
    from lightning_mm.results.texts import is_percent

    metric = result.require_metric(settings.metric)
    found = differences(result, settings.against, metric=metric, replicates=settings.bootstrap)
    if not found:
        raise LightningMMError(f"--against {settings.against}: no other method has a combination in common with it")
    level = result.bootstrap.level if result.bootstrap else 0.95
    print_differences(found, metric, is_percent(result, metric), level)
    if settings.bootstrap and not any(one.figure.interval for one in found):
        print("no intervals: no statistics of samples are stored that this metric can be computed from")
    return lambda folder: write_differences(found, metric, folder / "against.csv")


def _robustness(result: SweepResult, settings: Namespace, given: Sequence[dict[str, float]]) -> Writer:
    """Print the figures of robustness, and return what writes them."""
    from lightning_mm.results.per_sample.paired import paired_replicates
    from lightning_mm.results.robust import Scenario, bernoulli, robustness, usual_scenarios
    from lightning_mm.results.robust.tables import print_robustness, write_robustness
    from lightning_mm.results.rows import ZERO_FILL
    from lightning_mm.results.texts import is_percent

    metric, methods = result.require_metric(settings.metric), result.methods
    scenarios: list[Scenario] = (
        usual_scenarios(result.modalities)
        if settings.p_missing is None
        else [bernoulli(p, result.modalities) for p in settings.p_missing]
    )
    scenarios += [Scenario(",".join(f"{name}={p:g}" for name, p in one.items()), one) for one in given]
    reference = settings.reference or settings.against or (ZERO_FILL if ZERO_FILL in methods else "")
    bootstrap = paired_replicates(result, metric, settings.bootstrap)
    found = [robustness(result, method, metric, reference, scenarios, bootstrap) for method in methods]
    calibration, notes = _calibration(result, methods)
    print_robustness(found, is_percent(result, metric), result.direction(metric), notes)
    return lambda folder: write_robustness(found, result.direction(metric), calibration, folder / "robustness.csv")


def _curves(result: SweepResult, settings: Namespace) -> list[Writer]:
    """Print what to expect by the probability that a modality is missing, and return what writes it."""
    from lightning_mm.results.per_sample.paired import paired_replicates
    from lightning_mm.results.robust import missing_curves, print_grid
    from lightning_mm.results.robust.grid import write_grid
    from lightning_mm.results.robust.missing import write_curves

    metric = result.require_metric(settings.metric)
    grid = missing_curves(result, metric, bootstrap=paired_replicates(result, metric, settings.bootstrap))
    if grid is None:
        return []
    print_grid(grid)
    return [
        lambda folder: write_grid(grid, folder / "p_missing.csv"),
        lambda folder: write_curves(grid, folder / "p_missing.png"),
    ]


def _policies(result: SweepResult, metric: str | None) -> None:
    """Print the figures under the policies that the sweeps drew, if they did."""
    from lightning_mm.results.robust import policy_figures, print_grid

    try:
        grid = policy_figures(result, metric)
    except LightningMMError as error:
        print(f"no figures under policies: {error}")
        return
    if grid is not None:
        print_grid(grid)


def _calibration(result: SweepResult, methods: Sequence[str]) -> tuple[list[tuple[str, str, Figure]], list[str]]:
    """Print ECE and Brier score per combination; returns them for the CSV, and why there are none."""
    from lightning_mm.results.per_sample import rescore
    from lightning_mm.results.terminal import print_table

    names = ("ece", "brier")
    try:
        result = rescore(result, names)
    except LightningMMError as error:
        return [], [f"no calibration: {str(error).partition(';')[0]}"]
    for name in names:
        print_table(result, name)
    return [
        (method, f"{name} {combination}", figure)
        for name in names
        for method in methods
        for combination in result.combinations
        if (figure := result.figures(method, name).of(combination)).seeds
    ], []
