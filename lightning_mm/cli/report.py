"""``lightning-mm report FOLDER...``: one page of finished sweeps and studies, in one file."""

from __future__ import annotations

from pathlib import Path

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import UsageError


def run_report(args: list[str]) -> None:
    """Write the page of some results."""
    parser = Parser(
        "lightning-mm report",
        description="Write one HTML page of finished sweeps and studies: heat maps, charts, tables with downloads as "
        "CSV, LaTeX and (with the extra `report`) xlsx, costs, importance of modalities, pictures of predictions, and "
        "the samples that a method loses. The file needs no network; Markdown is written next to it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="a folder with a sweep.csv, as sweep, table and compare write it, or a folder of such folders",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page; by default report.html in the folder")
    parser.add_argument("--bundle", type=Path, metavar="OUT", help="write a folder that any web server publishes")
    parser.add_argument("--metric", help="the figure that charts show; by default the task's primary one")
    parser.add_argument(
        "--empty",
        type=float,
        help="value without any modality, e.g. the share of the most frequent class, for the importance of modalities; "
        "by default that of `majority`",
    )
    parser.add_argument("--title", help="title of the page; by default the names of the studies")
    settings = parser.parse_args(args)
    out = settings.out
    if out is None and settings.bundle is None:
        if len(settings.folders) > 1:
            raise UsageError("--out: several folders make one page; say where, e.g. --out report.html")
        out = (settings.folders[0] if settings.folders[0].is_dir() else settings.folders[0].parent) / "report.html"
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out: expected a file named *.html, got {out}; a folder is written by --bundle")

    from lightning_mm.report import write_bundle, write_report

    for write, place in ((write_report, out), (write_bundle, settings.bundle)):
        if place is not None:
            written = write(settings.folders, place, settings.metric, settings.empty, settings.title)
            print("written: " + ", ".join(map(str, written.values())))
