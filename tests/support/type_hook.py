"""Which tests run with checked types, see tests/conftest.py."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence

NO_TYPE_HOOK = "LIGHTNING_MM_NO_TYPE_HOOK"
# Not in the worker processes of a test: they import the package to unpickle their task before they get here.
TYPE_HOOK = os.environ.get(NO_TYPE_HOOK, "0") in ("", "0") and multiprocessing.parent_process() is None
WITHOUT_TYPE_HOOK = {
    # Lightning's save_hyperparameters() reads the arguments of __init__ off the stack, from the base task up to the
    # task, and stops at a frame that is neither: a checked __init__ of a task would lose its hyper-parameters.
    "lightning_mm.tasks.base",
    "lightning_mm.tasks.classification",
    "lightning_mm.tasks.segmentation",
    "lightning_mm.tasks.sentiment",
}


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
