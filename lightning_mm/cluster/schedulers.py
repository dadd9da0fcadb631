"""The schedulers by name."""

from __future__ import annotations

from lightning_mm.cluster.local.queue import Local
from lightning_mm.cluster.scheduler import Scheduler
from lightning_mm.cluster.slurm import Slurm
from lightning_mm.errors import check_choice


def scheduler_of(name: str) -> Scheduler:
    """Make the scheduler of a name.

    Raises:
        LightningMMError: If there is none.
    """
    check_choice("scheduler", name, ("slurm", "local"))
    return Local() if name == "local" else Slurm()
