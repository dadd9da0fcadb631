"""``lightning-mm importance SWEEP``: how much each modality is worth, and which pairs work together."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import LightningMMError, UsageError

if TYPE_CHECKING:
    from lightning_mm.results.importance import Group, Importance
    from lightning_mm.results.result import SweepResult


def run_importance(args: list[str]) -> None:
    """Print the Shapley values of modalities, and with ``--out`` write them as CSV and PNG."""
    parser = Parser(
        "lightning-mm importance",
        description="Exact Shapley values of modalities and their pairwise interactions, from a sweep of all "
        "combinations, with paired bootstrap intervals if statistics of samples are stored. The values add up to full "
        "minus empty; positive is better, in either direction of the metric.",
        allow_abbrev=False,
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep.csv, or the folder that holds it")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="these methods only; by default all that can be")
    parser.add_argument("--metric", help="the figure to explain; by default the task's primary one")
    parser.add_argument(
        "--empty",
        metavar="VALUE",
        help="value without any modality, or `majority` for that of always guessing the most frequent label; by "
        "default that of the method `majority`, or of guessing where the sweep has none",
    )
    parser.add_argument(
        "--per_class", action="store_true", help="also for every class: what each modality adds to its recall or IoU"
    )
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="also for groups of samples: a CSV with the column index (as in sweep_samples.npz) and one of groups",
    )
    parser.add_argument("--group_by", metavar="COLUMN", help="the column of --groups, if it has several")
    parser.add_argument("--bootstrap", type=int, default=1000, help="paired resamples; 0 for no intervals")
    parser.add_argument("--out", type=Path, help="folder for importance.csv and importance.png")
    settings = parser.parse_args(args)
    if settings.bootstrap < 0:
        raise UsageError(f"--bootstrap: expected 0 or more, got {settings.bootstrap}")
    if settings.group_by is not None and settings.groups is None:
        raise UsageError("--group_by names a column of --groups; give the file")

    from lightning_mm.results.files import read
    from lightning_mm.results.importance import print_importance, write_importance
    from lightning_mm.results.importance.tables import write_groups
    from lightning_mm.results.texts import is_percent

    result = read(settings.sweep)
    if settings.metric is not None and settings.metric not in result.metrics:
        raise UsageError(f"--metric: this sweep has {', '.join(result.metrics)}; got {settings.metric!r}")
    empty = _empty(settings, result)
    found, skipped = _importance(result, settings, empty)
    percent = is_percent(result, found[0].metric)
    print_importance(found, percent)
    for one in skipped:
        print(f"left out: {one}")
    grouped = _groups(result, settings, empty, [one.method for one in found])
    if settings.out is not None:
        written = write_importance(found, percent, settings.out)
        for what, (own, in_percent) in grouped.items():
            written |= write_groups(own, what, in_percent, settings.out)
        print("written: " + ", ".join(map(str, written.values())))


def _empty(settings: Namespace, result: SweepResult) -> float | None:
    """The value of ``--empty``; ``None`` for that of each metric."""
    from lightning_mm.results.importance.guess import value_of_guessing
    from lightning_mm.results.importance.shapley import MAJORITY

    if settings.empty is None:
        return None
    if settings.empty == MAJORITY:
        metric = result.require_metric(settings.metric)
        if MAJORITY in result.methods and result.values(MAJORITY, metric):
            return None
        if value_of_guessing(result, metric) is None:
            raise LightningMMError(
                f"--empty majority: no labels of samples are stored that {metric} of always guessing the most frequent "
                "one can be computed from; give a number"
            )
        return None
    try:
        value = float(settings.empty)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--empty: expected a number or `majority`, got {settings.empty!r}")
    return value


def _importance(
    result: SweepResult, settings: Namespace, empty: float | None
) -> tuple[list[Importance], list[LightningMMError]]:
    """Importance of all methods that have all combinations, and why others are left out."""
    from lightning_mm.results.importance import importance
    from lightning_mm.results.importance.shapley import MAJORITY
    from lightning_mm.results.per_sample.paired import paired_replicates

    bootstrap = paired_replicates(result, result.require_metric(settings.metric), settings.bootstrap)
    found, skipped = list["Importance"](), list[LightningMMError]()
    for method in settings.methods or [method for method in result.methods if method != MAJORITY]:
        try:
            found.append(importance(result, method, settings.metric, empty, bootstrap))
        except LightningMMError as error:
            if settings.methods:
                raise
            skipped.append(error)
    if not found:
        raise skipped[0]
    return found, skipped


def _groups(
    result: SweepResult, settings: Namespace, empty: float | None, methods: list[str]
) -> dict[str, tuple[dict[str, list[Group]], bool]]:
    """Print importance per class and per group; returns both by what they are of, and whether they are in percent."""
    from lightning_mm.results.importance import importance_per_class, importance_per_group, read_groups
    from lightning_mm.results.importance.tables import print_groups
    from lightning_mm.results.texts import is_percent

    found: dict[str, tuple[dict[str, list[Group]], bool]] = {}
    if settings.per_class:
        found["class"] = (importance_per_class(result, methods, empty, settings.bootstrap), True)
    if settings.groups is not None:
        groups = read_groups(settings.groups, settings.group_by)
        metric = result.require_metric(settings.metric)
        own = importance_per_group(result, groups, methods, metric, empty, settings.bootstrap)
        found[settings.group_by or "group"] = (own, is_percent(result, metric))
    for what, (own, percent) in found.items():
        print_groups(own, what, percent)
    return found
