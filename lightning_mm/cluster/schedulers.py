"""The schedulers by name."""

from __future__ import annotations

import shutil

from lightning_mm.cluster.local.queue import Local
from lightning_mm.cluster.scheduler import Scheduler
from lightning_mm.cluster.slurm import Slurm
from lightning_mm.errors import check_choice

LARGEST = 1000
"""Tasks of an array; Slurm's MaxArraySize is 1001 unless a site has changed it."""
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


def largest_array(name: str) -> int:
    """How many tasks an array of a scheduler may have."""
    if name != Slurm.name or shutil.which("scontrol") is None:
        return LARGEST
    return Slurm().largest_array() or LARGEST
