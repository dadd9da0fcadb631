"""Where the checkout is, and the folders of real data and reference numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def find_root(variable: str, neighbour: str) -> Path:
    """The folder that a variable names, else one next to the repository; the test is skipped without it."""
    folder = Path(os.environ.get(variable) or REPOSITORY.parent / "shared" / neighbour)
    if not folder.is_dir():
        pytest.skip(f"needs {variable}: {folder} is not a folder")
    return folder
