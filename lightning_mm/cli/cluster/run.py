"""``status`` and ``cancel`` of a submitted fit or sweep, by the folder of its run."""

from __future__ import annotations

import json
from pathlib import Path

SHOWN = 3
"""Last lines of the log of a job that failed."""
BAD = ("failed", "cancelled", "unknown")
"""States of a job that did not do what it should."""


def is_run(path: Path) -> bool:
    """Whether there are jobs of a fit or sweep in a folder."""
    return path.is_dir() and any((path / "jobs").glob("*/job.json"))


def show_run(folder: Path, failed: bool, as_json: bool) -> None:
    """Print the states of the jobs of a run, and where their output is.

    Args:
        folder: The folder of the run.
        failed: Whether to list only those that did not end well.
        as_json: Whether to print JSON.
    """
    from lightning_mm.cluster.graph.status import last_lines
    from lightning_mm.cluster.schedulers import scheduler_of
    from lightning_mm.cluster.submission.run_job import jobs_of

    jobs = {name: job for name, job in jobs_of(folder, scheduler_of).items() if not failed or job.state in BAD}
    if as_json:
        print(json.dumps({name: vars(job) for name, job in jobs.items()}, indent=1))
        return
    width = max(map(len, jobs), default=0)
    for name, job in jobs.items():
        facts = [job.word, job.ended_with, job.reason]
        if job.restarts:
            why = f" after {', '.join(job.earlier)}" if job.earlier else ""
            facts.append(f"queued again {job.restarts} time{'s' if job.restarts > 1 else ''}{why}")
        print(f"{name:{width}}  {job.state:9} job {job.id}  {', '.join(fact for fact in facts if fact)}".rstrip())
        log = _log(folder / "jobs" / name.partition(" ")[0], job.id, name.endswith(" merge"))
        if log is not None:
            for line in last_lines(log, SHOWN) if job.state == "failed" else ():
                print(f"{'':{width}}  | {line}")
            print(f"{'':{width}}  log: {log}")


def cancel_run(folder: Path) -> None:
    """Cancel the jobs of a run that are queued or running."""
    from lightning_mm.cluster.schedulers import scheduler_of
    from lightning_mm.cluster.submission.run_job import JOBS, LIVE, jobs_of, read_job

    live = {job.id.partition("_")[0] for job in jobs_of(folder, scheduler_of).values() if job.state in LIVE}
    for one in sorted((folder / JOBS).glob("*")):
        state = read_job(one)
        ids = [] if state is None else [name for name in (state.merge, state.id) if name in live]
        if state is not None and ids:  # the merge first, which would start when the sweep ends
            scheduler_of(state.scheduler).cancel([name for name in ids if name is not None])
    print(f"cancelled: {', '.join(sorted(live))}" if live else "nothing is queued or running")


def _log(folder: Path, job: str, merge: bool) -> Path | None:
    path = folder / f"{'merge-' if merge else ''}{job}.log"
    return path if path.is_file() else None
