"""``lightning-mm importance SWEEP``: how much each modality is worth, and which pairs work together."""

from __future__ import annotations

from pathlib import Path

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import LightningMMError, UsageError


def run_importance(args: list[str]) -> None:
    """Print the Shapley values of modalities, and with ``--out`` write them as CSV and PNG."""
    parser = Parser(
        "lightning-mm importance",
        description="Exact Shapley values of modalities and their pairwise interactions, from a sweep of all "
        "combinations, with intervals if the sweep has them. The values add up to full minus empty; positive is "
        "better, in either direction of the metric.",
        allow_abbrev=False,
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep.csv, or the folder that holds it")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="these methods only; by default all that can be")
    parser.add_argument("--metric", help="the figure to explain; by default the task's primary one")
    parser.add_argument(
        "--empty",
        type=float,
        help="value without any modality, e.g. the share of the most frequent class; by default that of `majority`",
    )
    parser.add_argument("--out", type=Path, help="folder for importance.csv and importance.png")
    settings = parser.parse_args(args)

    from lightning_mm.results.files import read
    from lightning_mm.results.importance import importance, print_importance, write_importance
    from lightning_mm.results.importance.shapley import MAJORITY
    from lightning_mm.results.texts import is_percent

    result = read(settings.sweep)
    if settings.metric is not None and settings.metric not in result.metrics:
        raise UsageError(f"--metric: this sweep has {', '.join(result.metrics)}; got {settings.metric!r}")
    found, skipped = [], list[LightningMMError]()
    for method in settings.methods or [method for method in result.methods if method != MAJORITY]:
        try:
            found.append(importance(result, method, settings.metric, settings.empty))
        except LightningMMError as error:
            if settings.methods:
                raise
            skipped.append(error)
    if not found:
        raise skipped[0]
    percent = is_percent(result, found[0].metric)
    print_importance(found, percent)
    for one in skipped:
        print(f"left out: {one}")
    if settings.out is not None:
        print("written: " + ", ".join(map(str, write_importance(found, percent, settings.out).values())))
