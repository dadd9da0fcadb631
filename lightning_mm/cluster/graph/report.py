"""Whether the tables of a submitted study are those of its finished cells."""

from __future__ import annotations

import hashlib

from lightning_mm.cluster.graph.cells import REPORT, Progress
from lightning_mm.cluster.graph.folder import JobsFolder


def report_key(progress: Progress) -> str:
    """Hash of what the tables of a finished study are made of."""
    keys = [step.key for steps in progress.steps.values() for step in steps or ()]
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]


def report_is_written(folder: JobsFolder, progress: Progress) -> bool:
    """Whether the report was written from the study as it is."""
    state = folder.read_cell(REPORT)
    return state is not None and state.state == "finished" and state.key == report_key(progress)
