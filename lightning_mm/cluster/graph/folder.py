"""The folder ``_jobs`` of a submitted study: the study as it was submitted, its jobs, and what became of its cells.

::

    _jobs/study.yaml, content.yaml     the study, see :mod:`lightning_mm.cluster.graph.frozen`
    _jobs/ledger.json                  all submissions with their jobs
    _jobs/2/level1.txt, level1.sh      cells of an array of the second submission, one a line, and its script
    _jobs/2/level1-7.log               what its task 7 printed (the log of a step is in the folder of its network)
    _jobs/cells/adapted/seed0.json     what the task of a cell says of it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lightning_mm.cluster.graph.frozen import STUDY
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.files import write_atomically
from lightning_mm.json_files import read_json
from lightning_mm.schemas.base import Schema, check
from lightning_mm.schemas.jobs import CellState, Ledger

JOBS = "_jobs"
"""No method may be named so: a name begins with a letter or a digit."""


SUBMITS = "it submits this study; wait for it"
"""What the error of the lock advises."""


@dataclass(frozen=True)
class JobsFolder:
    """The files of a submitted study.

    Args:
        study: The folder of the study's runs.
    """

    study: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.study / JOBS

    @property
    def is_there(self) -> bool:
        """Whether the study was submitted."""
        return (self.path / STUDY).is_file() and self.ledger.is_file()

    @property
    def ledger(self) -> Path:
        """The file that lists the submissions."""
        return self.path / "ledger.json"

    def read_ledger(self) -> Ledger:
        """Read the submissions.

        Raises:
            DataNotFoundError: If the study was not submitted.
            LightningMMError: If the file is damaged.
        """
        if not self.ledger.is_file():
            raise DataNotFoundError(
                f"no jobs of a study in {self.study}; submit it: lightning-mm submit slurm -- compare -c study.yaml"
            )
        way_out = "cancel the study's jobs by hand, remove the file, and submit the study again: nothing is lost by it"
        return check(Ledger, read_json(self.ledger, way_out), self.ledger, way_out)

    def write_ledger(self, ledger: Ledger) -> None:
        """Write the submissions."""
        self._write(self.ledger, ledger)

    def write_tasks(self, name: str, cells: list[str]) -> None:
        """Write the cells of an array, in the order of its task numbers."""
        write_atomically(self.path / f"{name}.txt", "".join(f"{cell}\n" for cell in cells))

    def read_tasks(self, name: str) -> list[str]:
        """Read the cells of an array.

        Raises:
            LightningMMError: If the file is not there, or no text.
        """
        path = self.path / f"{name}.txt"
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            raise LightningMMError(f"cannot read the cells of a job in {path}; submit the study again") from None

    def read_cell(self, name: str) -> CellState | None:
        """Read what the task of a cell says of it; ``None`` if it never started, or its file is damaged."""
        path = self._cell(name)
        try:
            return check(CellState, read_json(path, ""), path, "")
        except (OSError, LightningMMError):
            return None

    def write_cell(self, name: str, state: CellState) -> None:
        """Write what the task of a cell says of it."""
        self._write(self._cell(name), state)

    def _cell(self, name: str) -> Path:
        return self.path / "cells" / f"{name}.json"

    @staticmethod
    def _write(path: Path, content: Schema) -> None:
        write_atomically(path, json.dumps(content.model_dump(), indent=1) + "\n")
