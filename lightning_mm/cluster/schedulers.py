"""The schedulers by name."""

from __future__ import annotations

from lightning_mm.cluster.local.queue import Local
from lightning_mm.cluster.scheduler import Scheduler
from lightning_mm.cluster.slurm import Slurm
from lightning_mm.errors import check_choice

NAMES = (Slurm.name, Local.name)


def scheduler_of(name: str, jobs: int = 1) -> Scheduler:
    """Make the scheduler of a name.

    Args:
        name: ``slurm`` or ``local``.
        jobs: How many tasks may run at the same time on this machine.

    Raises:
        LightningMMError: If there is none of that name.
    """
    check_choice("scheduler", name, NAMES)
    return Slurm() if name == Slurm.name else Local(jobs)
