"""``lightning-mm cell STUDY_FOLDER TASKS NUMBER``: what a task of a submitted study runs; its ``job.sh`` says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning_mm.cli.errors import Parser
from lightning_mm.cli.stopping import Stop
from lightning_mm.errors import UsageError

RANKS = "ranks"
"""Folder in that of the jobs in which ranks of a task talk to each other."""


def run_cell_task(args: list[str], stop: Stop) -> None:
    """Run one cell, or write the report, in the task of a job."""
    parser = Parser(
        "lightning-mm cell",
        description="Run one cell of a submitted study, or write its report; jobs call it. A cell runs what is not "
        "finished; it ends with exit code 3 if what it needs is not finished.",
        allow_abbrev=False,
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="the folder of the study's runs")
    parser.add_argument("tasks", metavar="TASKS", help="the list of cells in its _jobs, such as 1/level0; or `report`")
    parser.add_argument("number", type=int, nargs="?", help="the line of that list, from 0")
    options = parser.parse_args(args)

    from lightning_mm.cluster.graph.cells import REPORT
    from lightning_mm.cluster.graph.folder import JobsFolder
    from lightning_mm.cluster.graph.ranks import command_of_launched, ranks_of
    from lightning_mm.cluster.graph.run_cell import follow, run_cell

    def run(command: list[str]) -> dict[str, Any]:
        from lightning_mm.cli.lightning.run import run_lightning

        stop.continues = command[0] == "fit"  # a sweep that is warned may still end in time
        return run_lightning(command, stop)

    launched = command_of_launched()
    if launched is not None:
        run(launched)
        return
    folder = JobsFolder(options.study.absolute())
    ranks = ranks_of(folder.path / RANKS)
    if options.tasks == REPORT:
        code = write_report_of(folder) if ranks.number == 0 else 0
    else:
        cells = folder.read_tasks(options.tasks)
        if options.number is None or not 0 <= options.number < len(cells):
            raise UsageError(f"number: {options.tasks} has the tasks 0 to {len(cells) - 1}, got {options.number}")
        if ranks.number:
            code = follow(run, ranks)
        else:
            code = run_cell(folder, cells[options.number], run, ranks)
            ranks.end()
    if code:
        raise SystemExit(code)


def write_report_of(folder: Any) -> int:
    """Write tables, report and record of a study; returns the exit code, 3 if a cell is not finished."""
    from lightning_mm.cli.compare import finish
    from lightning_mm.cluster.graph.cells import REPORT, cells_of, progress_of
    from lightning_mm.cluster.graph.frozen import thaw
    from lightning_mm.cluster.graph.report import report_key
    from lightning_mm.cluster.graph.run_cell import begun
    from lightning_mm.cluster.scheduler import NOT_READY
    from lightning_mm.compare.plan import Plan
    from lightning_mm.compare.step_runner import LOCK
    from lightning_mm.files import lock

    state = begun()
    with lock(folder.path / "cells" / LOCK, wait=True):
        study = thaw(folder.path, folder.study)
        plan = Plan(study)
        cells = cells_of(plan)
        progress = progress_of(plan, cells)
        unfinished = [cell.name for cell in cells if not progress.is_finished(cell)]
        if unfinished:
            reason = f"needs {', '.join(unfinished)}"
            print(f"lightning-mm: no report: it {reason}; `lightning-mm status {folder.study}` says why", flush=True)
            folder.write_cell(REPORT, state.model_copy(update={"state": "not_run", "reason": reason[:2000]}))
            return NOT_READY
        folder.write_cell(REPORT, state)
        try:
            finish(study, progress.facts, progress.choices, 1, folder.read_ledger().command)
        except Exception as error:
            update = {"state": "failed", "reason": str(error)[:2000]}
            folder.write_cell(REPORT, state.model_copy(update=update))
            raise
        done = {"state": "finished", "key": report_key(progress)}
        folder.write_cell(REPORT, state.model_copy(update=done))
        shutil.rmtree(folder.path / RANKS, ignore_errors=True)  # what ranks told each other
    return 0
