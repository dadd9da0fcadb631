"""Lets one task of several ranks run the same commands: rank 0 decides, the others follow.

Rank 0 alone holds locks, looks at markers and writes them. It announces every command that all ranks run together as a
file that the others wait for; all of them see the study's folder.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lightning_mm.files import write_atomically

TOGETHER = ("fit", "sweep")
"""Verbs that all ranks run; the others are for one process."""
INTERVAL = 0.2
"""Seconds between two looks of a rank that waits."""


@dataclass
class Ranks:
    """The ranks of this task.

    Args:
        number: The number of this one.
        count: How many there are.
        folder: Where rank 0 announces commands, not used by any other task.
    """

    number: int
    count: int
    folder: Path
    _announced: int = field(default=0, init=False)

    def announce(self, command: list[str]) -> None:
        """Tell the other ranks to run a command, if it is one for all."""
        if self.count > 1 and command[0] in TOGETHER and "--print_config" not in command:
            self._write(command)

    def end(self) -> None:
        """Tell the other ranks that there are no more commands."""
        if self.count > 1:
            self._write([])

    def _write(self, command: list[str]) -> None:
        write_atomically(self.folder / f"{self._announced}.json", json.dumps(command))
        self._announced += 1

    def commands(self) -> Iterator[list[str]]:
        """Wait for the commands that rank 0 announces, until it announces the end."""
        while True:
            path = self.folder / f"{self._announced}.json"
            while not path.is_file():
                time.sleep(INTERVAL)
            command: list[str] = json.loads(path.read_bytes())
            if not command:
                return
            self._announced += 1
            yield command


COMMAND = "LIGHTNING_MM_CELL_COMMAND"
"""Variable with the command that a cell runs, for ranks that Lightning starts: as the command of the whole process."""


def command_of_launched(environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """The command of a rank that Lightning has started within a command of rank 0, outside of ``srun``."""
    if COMMAND not in environment or environment.get("LOCAL_RANK", "0") == "0":
        return None
    command: list[str] = json.loads(environment[COMMAND])
    return command


def ranks_of(folder: Path, environment: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks that ``srun`` has started.

    Args:
        folder: A folder that all ranks of a study see.
        environment: Variables of this process.
    """
    if "SLURM_STEP_NUM_TASKS" not in environment:  # not inside srun; a batch script alone has no step
        return Ranks(0, 1, folder / "alone")
    parts = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
    name = "-".join(environment.get(part, "0") for part in parts)
    return Ranks(int(environment.get("SLURM_PROCID", "0")), int(environment["SLURM_STEP_NUM_TASKS"]), folder / name)
