"""``lightning-mm table A/sweep.csv B/sweep.csv [--out FOLDER]``: several sweeps side by side."""

from __future__ import annotations

from pathlib import Path

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import UsageError


def run_table(args: list[str]) -> None:
    """Merge sweeps, print the table, and with ``--out`` write CSV, JSON, Markdown and the heat map."""
    parser = Parser(
        "lightning-mm table",
        description="Put the results of several sweeps side by side in one table.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "sweeps", nargs="+", type=Path, metavar="SWEEP", help="a sweep.csv, or the folder that holds it"
    )
    parser.add_argument("--out", type=Path, help="folder for the merged sweep.csv, .json, .md and .png")
    parser.add_argument("--metric", help="the figure to show; by default the task's primary one")
    settings = parser.parse_args(args)

    from lightning_mm.results.files import read, save
    from lightning_mm.results.merge import merge
    from lightning_mm.results.terminal import print_table

    result = merge([read(path) for path in settings.sweeps])
    if settings.metric is not None and settings.metric not in result.metrics:
        raise UsageError(f"--metric: these sweeps have {', '.join(result.metrics)}; got {settings.metric!r}")
    print_table(result, settings.metric)
    if settings.out is not None:
        written = save(result, settings.out)
        print("written: " + ", ".join(map(str, written.values())))
