"""Tells Lightning how Slurm has started this process, which it guesses from variables that are not always true."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, MutableMapping

from lightning_mm.errors import LightningMMError, UsageError

NO_JOB = ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE")
"""Variables by which Lightning takes a process for one of several that ``srun`` has started."""
INTERACTIVE = ("bash", "interactive")
"""Names of jobs in which Lightning looks at no variable of Slurm's."""


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Correct the variables of Slurm that Lightning reads.

    A command in a batch script or a shell of a job, without ``srun``, is one process, however many tasks the job has:
    Lightning would wait for the others. The tasks of a step are all those that ``srun`` has started, whatever the name
    of the job and the options of ``sbatch`` are.

    Args:
        environment: Changed in place.

    Raises:
        LightningMMError: If the step has more tasks on one node than on another.
    """
    if "SLURM_NTASKS" not in environment:
        return
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    started = "SLURM_STEP_ID" in environment and "SLURM_PTY_PORT" not in environment  # `srun --pty bash` is a shell
    if not started or tasks == 1:
        asked = environment["SLURM_NTASKS"]
        if asked != "1" and not started:
            print(
                f"lightning-mm: this job has {asked} tasks, but srun has not started this command, so it is one "
                "process; `srun lightning-mm ...` runs one per task",
                file=sys.stderr,
            )
        for name in NO_JOB:
            environment.pop(name, None)
        return
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE", str(tasks))
    each = re.fullmatch(r"(\d+)(?:\(x\d+\))?", counts)
    if each is None:
        raise LightningMMError(
            f"srun has started other numbers of tasks on different nodes ({counts}), which a trainer cannot use; give "
            "srun --ntasks-per-node"
        )
    environment["SLURM_NTASKS"], environment["SLURM_NTASKS_PER_NODE"] = str(tasks), each[1]
    environment["SLURM_NNODES"] = environment.get("SLURM_STEP_NUM_NODES", "1")
    if environment.get("SLURM_JOB_NAME") in INTERACTIVE:
        environment["SLURM_JOB_NAME"] = "lightning-mm"


def check_processes(count: int, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a training that every task of ``srun`` would run alone, in the same folder.

    Args:
        count: Processes that the trainer is for, on all nodes.
        environment: As :func:`settle` leaves it.

    Raises:
        UsageError: If ``srun`` has started another number.
    """
    tasks, each = environment.get("SLURM_NTASKS", "1"), environment.get("SLURM_NTASKS_PER_NODE", "1")
    if count != int(tasks) and tasks != "1":
        raise UsageError(
            f"srun has started {tasks} processes, but the trainer is for {count}; give --trainer.num_nodes "
            f"{int(tasks) // int(each)} and --trainer.devices {each}, or srun --ntasks {count}"
        )
