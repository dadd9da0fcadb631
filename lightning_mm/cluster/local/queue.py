"""``submit local``: jobs of this machine, one after the other or a few at once.

There is no daemon. Every job has a keeper, a small process in a session of its own (:mod:`.keeper`): it waits for its
turn and for the jobs before, runs the script, and runs it again if that asks for it. A closed terminal ends none of
them; a restart of the machine ends all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_mm.cluster.local.folder import CAN_RUN, ENDED, JobFolder, forget_old, jobs_in, queue_folder
from lightning_mm.cluster.local.gpus import visible_gpus
from lightning_mm.cluster.scheduler import Job
from lightning_mm.cluster.script import RESTARTS, TASK
from lightning_mm.errors import LightningMMError
from lightning_mm.schemas.local_job import LocalJobState

NO_LOG = os.devnull


@dataclass(frozen=True)
class Local:
    """Runs scripts on this machine.

    Args:
        jobs: How many tasks may run at the same time, those of jobs submitted before included, unless a script says
            so itself: ``#LOCAL --jobs=2``.
        folder: Where the jobs are kept.
    """

    jobs: int = 1
    folder: Path = field(default_factory=queue_folder)

    name = "local"

    def check(self, script: Path) -> None:
        """Check that a script can run here."""
        if not CAN_RUN:
            raise LightningMMError("submit local needs bash and a Unix, such as Linux or macOS; run the command itself")
        nodes = re.search(r"(?m)^#SBATCH --nodes=(\d+)", script.read_text(encoding="utf-8"))
        if nodes and int(nodes[1]) > 1:
            raise LightningMMError(f"submit local has one node, this machine; got {nodes[1]} (--nodes)")
        gpus, visible = gpus_of(script.read_text(encoding="utf-8")), visible_gpus()
        if visible is not None and gpus > len(visible):
            raise LightningMMError(
                f"this machine has {len(visible)} GPU{'s' if len(visible) != 1 else ''} (CUDA_VISIBLE_DEVICES, or "
                f"nvidia-smi), got --gpus_per_node {gpus}"
            )

    def submit(self, script: Path, after: Sequence[str] = (), array: str | None = None) -> str:
        """Start the keeper of a job."""
        self.check(script)
        there = {job.id for job in jobs_in(self.folder)}
        unknown = [one for one in after if one.partition("_")[0] not in there]
        if unknown:
            raise LightningMMError(f"there is no local job {', '.join(unknown)} to wait for")
        forget_old(self.folder)
        text = script.read_text(encoding="utf-8")
        log = re.search(r'(?m)^#SBATCH --output="?(.*?)"?$', text)
        own = re.search(r"(?m)^#LOCAL --jobs=(\d+)$", text)
        tasks, at_once = tasks_of(array)
        job = JobFolder.new(self.folder)
        job.script.write_text(text, encoding="utf-8")
        job.write(
            LocalJobState(
                log=log[1] if log else NO_LOG,
                after=list(after),
                tasks=tasks,
                at_once=at_once,
                gpus=gpus_of(text),
                visible=visible_gpus(),
                jobs=int(own[1]) if own else self.jobs,
            )
        )
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        for key in (TASK, RESTARTS):
            environment.pop(key, None)
        with job.hold() as alive:
            command = [sys.executable, "-m", "lightning_mm.cluster.local.keeper", str(job.path), str(alive.fileno())]
            with (job.path / "keeper.log").open("ab") as output:
                subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                    pass_fds=(alive.fileno(),), check=True,
                )  # fmt: skip
        return job.id

    def states(self, ids: Sequence[str]) -> dict[str, Job]:
        """Read the files of jobs."""
        there = {one.id: one for one in jobs_in(self.folder)}
        found: dict[str, Job] = {}
        for one in ids:
            number, _, task = one.partition("_")
            states = there[number].states() if number in there else {}
            if task:
                states = {key: job for key, job in states.items() if key == one}
            found |= states or {one: Job(one, "unknown")}
        return found

    def cancel(self, ids: Sequence[str]) -> None:
        """Ask the keepers of jobs to end them, which takes a moment."""
        there = {one.id: one for one in jobs_in(self.folder)}
        for one in ids:
            number, _, task = one.partition("_")
            if number in there and any(job.state not in ENDED for job in self.states([one]).values()):
                there[number].ask_to_cancel(int(task) if task.isdigit() else None)


def gpus_of(script: str) -> int:
    """How many GPUs a script asks for on a node.

    Example:
        >>> gpus_of("#SBATCH --gres=gpu:a100:4"), gpus_of("#SBATCH --gpus-per-node=2"), gpus_of("#SBATCH --mem=4")
        (4, 2, 0)
    """
    found = re.search(r"(?m)^#SBATCH --(?:gpus-per-node=|gres=\S*:)(\d+)$", script)
    return int(found[1]) if found else 0


def tasks_of(array: str | None) -> tuple[list[int] | None, int | None]:
    """The numbers of an array, and how many may run at once.

    Example:
        >>> tasks_of("0-2,7%2")
        ([0, 1, 2, 7], 2)
    """
    if array is None:
        return None, None
    numbers, _, at_once = array.partition("%")
    found: list[int] = []
    for part in numbers.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise LightningMMError(f"array: expected numbers such as 0-5 or 1,3,7%2, got {array!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found, int(at_once) if at_once else None
