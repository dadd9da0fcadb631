"""Which tests run with checked types, see tests/conftest.py."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence

NO_TYPE_HOOK = "LIGHTNING_MM_NO_TYPE_HOOK"
# Not in the worker processes of a test: they import the package to unpickle their task before they get here.
TYPE_HOOK = os.environ.get(NO_TYPE_HOOK, "0") in ("", "0") and multiprocessing.parent_process() is None
WITHOUT_TYPE_HOOK: set[str] = set()


def own_process(test: str, warnings: Sequence[str] | None) -> list[str]:
    """The command that runs one test, with the ``-W`` options of this run."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--quiet",
        "--numprocesses=0",
        "-p",
        "no:cacheprovider",
        "-m",
        "slow or not slow",
    ]
    return [*command, *(part for option in warnings or () for part in ("-W", option)), test]
