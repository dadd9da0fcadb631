"""What one task of a submitted study does: it runs the steps of its cell whose needs are finished."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_mm.cluster.graph.cells import Cell, Progress, cells_of, progress_of
from lightning_mm.cluster.graph.folder import JobsFolder
from lightning_mm.cluster.graph.frozen import thaw
from lightning_mm.cluster.graph.ranks import COMMAND, Ranks
from lightning_mm.cluster.scheduler import NOT_READY
from lightning_mm.cluster.script import RESTARTS
from lightning_mm.compare.cell_config import Run
from lightning_mm.compare.executor import StepError
from lightning_mm.compare.plan import Plan, Step
from lightning_mm.compare.runner import named
from lightning_mm.compare.step_runner import Facts, perform
from lightning_mm.errors import LightningMMError, NotApplicableError, Stopped
from lightning_mm.schemas.jobs import CellState
from lightning_mm.signals import REQUEUE

GRACE = 20.0
"""Seconds that a rank with an error waits for rank 0 to say what happened."""
LONGEST = 2000
"""Characters of a reason that are kept."""


def run_cell(folder: JobsFolder, name: str, run: Run, ranks: Ranks) -> int:
    """Run the steps of a cell that are not finished, on rank 0, and note what became of it.

    A step that fails stops those that need it, and no others.

    Args:
        folder: The study's.
        name: The cell.
        run: Runs a command of the command line.
        ranks: The ranks of this task.

    Returns:
        The exit code: 0, or 1 if a step failed, or 3 if one was not run because what it needs is not finished.

    Raises:
        LightningMMError: If the study has no such cell, or a file is damaged.
    """
    plan = Plan(thaw(folder.path, folder.study))
    cells = cells_of(plan)
    cell = next((cell for cell in cells if cell.name == name), None)
    if cell is None:
        raise LightningMMError(f"{folder.study}: the study has no cell {name!r}; submit it again")
    progress = progress_of(plan, _with_needs(cell, cells))
    before, state = folder.read_cell(name), begun()

    def together(command: list[str]) -> Facts:
        ranks.announce(command)
        os.environ[COMMAND] = json.dumps(command)
        try:
            with named(plan.study):
                return run(command)
        finally:
            del os.environ[COMMAND]

    steps = progress.steps[name]
    if steps is None:
        state, code = _no_choice(folder, cell, progress, state)
        folder.write_cell(name, state)
        return code
    facts: dict[Path, Facts] = dict(progress.facts)
    failed: CellState | None = None
    waits: CellState | None = None
    for step in steps:
        missing = next((need for need in step.needs if need.marker not in facts), None)
        if missing is not None:
            reason = f"needs {_name(folder, missing)}, which is not finished"
            waits = waits or _changed(state, "not_run", step, reason)
            print(f"lightning-mm: {_name(folder, step)} was not run: it {reason}", flush=True)
            continue
        if step.marker in facts:
            continue
        _say_that_it_starts_anew(folder, step, before, state)
        folder.write_cell(name, _changed(state, "running", step))
        try:
            facts[step.marker] = found = perform(step, together, resume=True)
            took = found.get("skipped", f"{found.get('command_seconds', 0):.0f} s")
            print(f"lightning-mm: {_name(folder, step)}: {took}", flush=True)
        except Exception as error:
            message = str(StepError(step, error))
            failed = failed or _changed(state, "failed", step, _why(error))
            print(f"lightning-mm: error: {message}", flush=True)
            if ranks.count > 1:  # the others may wait for this one; `srun --kill-on-bad-exit` ends them
                break
        except BaseException as error:  # a signal, or a training that has saved where it was
            folder.write_cell(name, _changed(state, "stopped", step, _why_stopped(error)))
            raise
    ended = failed or waits or state.model_copy(update={"state": "finished"})
    folder.write_cell(name, ended)
    return {"failed": 1, "not_run": NOT_READY}.get(ended.state, 0)


def follow(run: Run, ranks: Ranks) -> int:
    """Run the commands that rank 0 announces, on another rank.

    Returns:
        The exit code: 0 once rank 0 has ended, or 1 if a command failed here and rank 0 goes on without it.
    """
    for command in ranks.commands():
        try:
            run(command)
        except NotApplicableError:  # rank 0 notes it
            continue
        except Exception:
            traceback.print_exc()
            time.sleep(GRACE)  # if it failed on rank 0 too, which can say more, that one ends first
            return 1
    return 0


def _with_needs(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """A cell after all those that it needs, directly or not."""
    by_name = {one.name: one for one in cells}
    wanted: set[str] = set()
    waiting = [cell.name]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += by_name[name].needs
    return [one for one in cells if one.name in wanted]


def _no_choice(folder: JobsFolder, cell: Cell, progress: Progress, state: CellState) -> tuple[CellState, int]:
    """The state of a cell whose method has no chosen value, and the exit code."""
    method = str(cell.method)
    if method in progress.hopeless:
        reason = progress.hopeless[method]
        print(f"lightning-mm: error: {reason}", flush=True)
        return state.model_copy(update={"state": "failed", "step": "choice", "reason": reason}), 1
    plan = progress.plan
    tuned = plan.study.method(method)
    trials = [step for seed in plan.study.seeds for step in plan.validation(tuned, seed)]
    missing = next(step for step in trials if step.marker not in progress.facts)
    reason = f"needs {_name(folder, missing)}, which is not finished, to choose a value"
    print(f"lightning-mm: {cell.name} was not run: it {reason}", flush=True)
    return state.model_copy(update={"state": "not_run", "step": "choice", "reason": reason}), NOT_READY


def begun(environment: Mapping[str, str] = os.environ) -> CellState:
    """The state of a cell, or of the report, that this task starts."""
    restarts = environment.get(RESTARTS, "")
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return CellState(
        state="running",
        job=job_of(environment),
        host=platform.node(),
        time=now,
        restarts=int(restarts) if restarts.isdigit() else 0,
    )


def job_of(environment: Mapping[str, str]) -> str:
    """The id of the job or array task that this process belongs to; empty outside of one."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment.get('SLURM_ARRAY_TASK_ID', '')}"
    return environment.get("SLURM_JOB_ID", "")


def _changed(state: CellState, now: str, step: Step, reason: str = "") -> CellState:
    log = step.folder / f"{step.stage}.log"
    return state.model_copy(update={"state": now, "step": step.stage, "reason": reason[:LONGEST], "log": str(log)})


def _name(folder: JobsFolder, step: Step) -> str:
    return f"{step.folder.relative_to(folder.study.absolute())} {step.stage}"


def _say_that_it_starts_anew(folder: JobsFolder, step: Step, before: CellState | None, state: CellState) -> None:
    """Say of a step that is no training that an earlier start of this job was ended in it."""
    if step.stage == "fit" or not state.restarts or before is None or before.step != step.stage:
        return
    if before.job == state.job and before.state in ("running", "stopped"):
        print(
            f"lightning-mm: {_name(folder, step)} was ended before, and starts anew, as only trainings go on where "
            f"they were; if the time limit ended it, cancel this, and give more: lightning-mm resubmit {folder.study} "
            "--time TIME",
            flush=True,
        )


def _why(error: Exception) -> str:
    if isinstance(error, LightningMMError):
        return str(error)
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _why_stopped(error: BaseException) -> str:
    if isinstance(error, Stopped):
        return f"stopped by {signal.Signals(error.number).name}"
    if isinstance(error, SystemExit) and error.code == REQUEUE:
        return "saved where it was, to be started again"
    return f"stopped: {type(error).__name__} {error}".strip()
