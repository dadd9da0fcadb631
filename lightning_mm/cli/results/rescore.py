"""``lightning-mm rescore FOLDER --metric ...``: other metrics of a finished sweep, without its network."""

from __future__ import annotations

from pathlib import Path

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import UsageError


def run_rescore(args: list[str]) -> None:
    """Compute metrics from stored statistics, print them, and with ``--out`` write the results with them."""
    parser = Parser(
        "lightning-mm rescore",
        description="Compute other metrics of a finished sweep from the statistics of its samples (sweep_samples.npz). "
        "No network is run, and torch is not needed. With intervals if the sweep has them. Metrics that the statistics "
        "do not suffice for are refused with what is missing.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "sweep", type=Path, metavar="FOLDER", help="a folder with a sweep.csv and its sweep_samples.npz"
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        metavar="NAME",
        help="names such as macro_f1, ece or recall_per_class (a value per class), or module.function: a function of "
        "yours of {statistic: array of the samples} that returns a number; without it the possible names are listed",
    )
    parser.add_argument(
        "--direction", choices=("max", "min"), default="max", help="what is better in functions of yours"
    )
    parser.add_argument(
        "--bootstrap", type=int, help="draws for intervals, 0 for none; by default as many as the sweep has"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for sweep.csv, .json, .md, .png and sweep_samples.npz with them"
    )
    settings = parser.parse_args(args)
    if settings.bootstrap is not None and settings.bootstrap < 0:
        raise UsageError(f"--bootstrap: expected 0 or more, got {settings.bootstrap}")

    from lightning_mm.files import check_folder
    from lightning_mm.results.files import read, save
    from lightning_mm.results.per_sample import computable, import_metric, rescore
    from lightning_mm.results.per_sample.cells import require_cells
    from lightning_mm.results.terminal import print_table

    result = read(settings.sweep)
    if not settings.metric:
        for what in sorted({", ".join(computable(cell.statistics)) for cell in require_cells(result)}):
            print(f"--metric: the stored statistics suffice for {what or 'functions of yours only'}")
        return
    if settings.out is not None:
        check_folder(settings.out)
    metrics = [import_metric(name, settings.direction) if "." in name else name for name in settings.metric]
    known = {row.metric for row in result.rows}
    result = rescore(result, metrics, settings.bootstrap)
    names = [name if isinstance(name, str) else name.name for name in metrics]
    shown = [name for name in result.metrics if name in names or name not in known]
    for name in shown:
        print_table(result, name)
    if settings.out is not None:
        print("written: " + ", ".join(map(str, save(result, settings.out).values())))
