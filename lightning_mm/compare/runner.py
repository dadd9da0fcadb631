"""Runs the steps of a study side by side, each as soon as those that it needs are finished."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

from lightning_mm.compare.cells import die_with_parent, finished
from lightning_mm.compare.choice import choose
from lightning_mm.compare.plan import Plan, Step
from lightning_mm.compare.study import Study
from lightning_mm.errors import LightningMMError
from lightning_mm.files import replace_file

Perform = Callable[[Step], dict[str, Any]]
"""Performs a step in another process; a function of a module, so that it can be sent there."""
Facts = dict[Path, dict[str, Any]]
"""Marker of a finished step to what it says."""
SHOWN = 6
"""Last lines of a log that an error shows."""


class StepError(LightningMMError):
    """A step of a study has failed; the message names its log."""


def run_study(
    study: Study, do: Perform, jobs: int, say: Callable[[str], object] = print, again: bool = False
) -> tuple[Facts, dict[str, Any]]:
    """Run every step that is not finished yet.

    Args:
        study: What to run.
        do: Performs a step, in a worker process.
        jobs: Worker processes; the threads of the machine are shared between them.
        say: Told what is finished.
        again: Whether finished runs whose settings have changed may be deleted and run again.

    Returns:
        What the markers of all steps say, and tuned method to the chosen value with the figures it was chosen by.

    Raises:
        StepError: If a step fails; those that run beside it are finished first.
        LightningMMError: If another process works on this study, or finished runs would be deleted.
    """
    facts, choices = Facts(), dict[str, Any]()
    with ExitStack() as stack:
        stack.enter_context(_alone(study.out))
        plan = Plan(_with_copies(study))
        if not again:
            _check_nothing_is_lost(plan)
        pool = stack.enter_context(_pool(jobs))
        running: dict[Future[dict[str, Any]], Step] = {}
        while True:
            steps = plan.steps({name: choice["value"] for name, choice in choices.items()})
            started = {step.marker for step in running.values()}
            for step in steps:
                if step.marker in facts or step.marker in started or any(n.marker not in facts for n in step.needs):
                    continue
                known = _skipped(step, facts) or finished(step)
                if known is not None:
                    facts[step.marker] = known
                elif len(running) < jobs:
                    running[pool.submit(do, step)] = step
            if not running:
                new = choose(plan, facts, choices)
                if not new and all(step.marker in facts for step in steps):
                    return facts, choices
                choices.update(new)
                for name, choice in new.items():
                    say(f"{name}: {choice['key']} = {choice['value']}, chosen on validation data: {choice['means']}")
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                try:
                    facts[step.marker] = future.result()
                except (Exception, SystemExit) as error:
                    wait(running)
                    raise StepError(_what_failed(step, error)) from error
                took = facts[step.marker].get("command_seconds")
                total = sum(one.marker in facts for one in steps)
                say(
                    f"[{total}/{len(steps)}] {step.folder.relative_to(study.out)} {step.stage}"
                    + (f" {took:.0f} s" if took else f" {facts[step.marker].get('skipped', '')}")
                )


def _check_nothing_is_lost(plan: Plan) -> None:
    """Refuse to take the place of finished trainings with other settings, which may have taken days."""
    changed = [step for step in plan.steps({}) if step.stage == "fit" and step.command and step.marker.is_file()]
    changed = [step for step in changed if finished(step) is None]
    if changed:
        raise LightningMMError(
            f"{len(changed)} finished trainings in {plan.study.out} have other settings than the study asks for now, "
            f"{changed[0].folder.relative_to(plan.study.out)} for one; give --again to delete and repeat them, or "
            "another folder with --out"
        )


def _with_copies(study: Study) -> Study:
    """The study with copies of its config files, so that editing one while it runs changes nothing half way."""
    folder = study.out / "configs"

    def copies(paths: tuple[Path, ...]) -> tuple[Path, ...]:
        made = []
        for path in paths:
            content = path.read_bytes()
            place = folder / f"{path.stem}-{zlib.crc32(content):08x}{path.suffix}"
            if not place.is_file():
                replace_file(place, partial(_write, content))
            made.append(place)
        return tuple(made)

    methods = tuple(replace(method, configs=copies(method.configs)) for method in study.methods)
    return replace(study, configs=copies(study.configs), methods=methods)


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _skipped(step: Step, facts: Facts) -> dict[str, Any] | None:
    """A step whose network could not be made is skipped too, for the same reason."""
    reasons = [facts[need.marker]["skipped"] for need in step.needs if "skipped" in facts[need.marker]]
    return {"skipped": reasons[0]} if reasons else None


def _what_failed(step: Step, error: BaseException) -> str:
    log = step.folder / f"{step.stage}.log"
    if isinstance(error, LightningMMError):
        why = str(error)
    elif isinstance(error, BrokenProcessPool):
        why = "its process was killed (out of memory?)"
    else:
        why = f"{type(error).__name__}: {error}"
        if log.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
            why += "".join(f"\n    {line}" for line in lines)
    return f"{step.name} failed: {why}\n  log: {log}"


def threads_of(jobs: int) -> int:
    """Threads of one of several processes side by side."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


@contextmanager
def _pool(jobs: int) -> Any:
    """Worker processes that share the cores, end with this one, and are stopped when it is interrupted."""
    threads = str(threads_of(jobs))
    before = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, threads))
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=die_with_parent, initargs=(os.getpid(),)
    )
    try:
        yield pool
    except KeyboardInterrupt:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _alone(out: Path) -> Any:
    """Hold the study's folder against a second process."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LightningMMError(
                f"another process works on the study in {out}; wait for it, or give another folder with --out"
            ) from None
        yield
