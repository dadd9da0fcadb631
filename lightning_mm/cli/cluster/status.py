"""``lightning-mm status STUDY``: what became of the cells of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_mm.cli.errors import Parser

if TYPE_CHECKING:
    from lightning_mm.cluster.graph.status import CellStatus, StudyStatus

MOST = 40
"""Lines of finished, running, queued or open cells that are listed one by one."""


def run_status(args: list[str]) -> None:
    """Print the state of every cell."""
    parser = Parser(
        "lightning-mm status",
        description="Say what became of the cells of a study: finished, running, queued, failed (with the last lines "
        "of the log), not run because of another cell, or open. Markers in its folders say what is finished; the "
        "scheduler, where there is one, says the rest.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "study",
        type=Path,
        metavar="STUDY",
        help="the study's YAML file, the folder of its runs, or that of a submitted fit or sweep",
    )
    parser.add_argument("--failed", action="store_true", help="only cells that failed or were not run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(args)

    from lightning_mm.cli.cluster.run import is_run, show_run

    if is_run(options.study):
        show_run(options.study, options.failed, options.json)
        return

    from lightning_mm.cluster.graph.status import BAD, open_study, status_of
    from lightning_mm.cluster.schedulers import scheduler_of

    status = status_of(open_study(options.study), scheduler_of)
    cells = [cell for cell in status.cells if not options.failed or cell.state in BAD]
    print(as_json(status, cells) if options.json else as_text(status, cells, options.failed))


def as_json(status: StudyStatus, cells: list[CellStatus]) -> str:
    """Write a status as JSON."""
    content = {
        "study": status.name,
        "folder": str(status.folder),
        "results": str(status.results),
        "chosen": {name: choice["value"] for name, choice in status.choices.items()},
        "not_asked": status.silent,
        "cells": [
            {
                "name": cell.name,
                "state": cell.state,
                "stages": cell.stages,
                "reason": cell.reason,
                "step": cell.step,
                "job": cell.job,
                "word": cell.word,
                "restarts": cell.restarts,
                "log": cell.log,
                "last_lines": list(cell.tail),
            }
            for cell in cells
        ],
    }
    return json.dumps(content, indent=1, default=str)


def as_text(status: StudyStatus, cells: list[CellStatus], failed: bool) -> str:
    """Write a status for a terminal."""
    from lightning_mm.cluster.graph.cells import REPORT
    from lightning_mm.cluster.graph.status import BAD

    lines = [line for cell in cells for line in _lines(cell)]
    good = [cell for cell in cells if cell.state not in BAD]
    if len(good) > MOST:
        lines = [line for cell in cells if cell.state in BAD for line in _lines(cell)]
    counts = [
        f"{number} {words}"
        for words, number in (
            ("finished", status.count("finished")),
            ("running", status.count("running")),
            ("queued", status.count("queued")),
            ("failed", status.count("failed")),
            ("not run", status.count("not_run")),
            ("cancelled", status.count("cancelled")),
            ("open", status.count("open")),
        )
        if number
    ]
    total = len([cell for cell in status.cells if cell.name != REPORT])
    lines.append(f"{status.name}: {total} cells: {', '.join(counts)}")
    lines += [
        f"{name}: {choice['key']} = {choice['value']}, chosen on validation data"
        for name, choice in status.choices.items()
    ]
    lines += [f"{name} was not asked: {why}" for name, why in status.silent.items()]
    report = next((cell for cell in status.cells if cell.name == REPORT), None)
    if report is not None and report.state == "finished":
        lines.append(f"report: {status.results / 'report.html'}")
    elif any(cell.state in (*BAD, "open") for cell in status.cells) and report is not None:
        lines.append(f"to run what is open: lightning-mm resubmit {status.folder}")
    return "\n".join(lines)


def _lines(cell: CellStatus) -> list[str]:
    """The lines of a cell."""
    state = "not run" if cell.state == "not_run" else cell.state
    parts = [f"{state:9}  {cell.name}"]
    if cell.step and cell.state in ("running", "failed"):
        parts.append(f" {cell.step}")
    about = []
    if cell.job and cell.state in ("queued", "running", "failed", "cancelled"):
        about.append(f"job {cell.job}")
    if cell.restarts:
        about.append(f"started again {cell.restarts} time{'s' if cell.restarts > 1 else ''}")
    if about:
        parts.append(f" ({', '.join(about)})")
    if cell.reason:
        first = cell.reason.splitlines()[0]
        parts.append(f": {first}")
    lines = ["".join(parts)]
    if cell.state == "failed":
        lines += [f"           | {line}" for line in cell.tail]
        if cell.log:
            lines.append(f"           log: {cell.log}")
    return lines
