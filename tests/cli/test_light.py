"""Verbs that need no torch answer without importing it: importing torch and Lightning takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.support.repository import REPOSITORY

AT_ONCE = (
    ["--help"],
    ["--version"],
    ["data"],
    ["data", "mfnet"],
    ["data", "--json"],
    *(
        [verb, "--help"]
        for verb in ("data", "table", "report", "compare", "tune", "demo", "status", "resubmit", "cancel")
    ),
)


def imported(*commands: list[str]) -> set[str]:
    """Top-level packages, but those of the standard library, that commands import in a fresh interpreter."""
    code = """
import json, sys
before = set(sys.modules)
from lightning_mm.cli import main
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
print()
print(*{name.split(".")[0] for name in set(sys.modules) - before})
"""
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    tops = run.stdout.splitlines()[-1].split()
    return {top for top in tops if top not in sys.stdlib_module_names and not top.startswith("_")}


def children_seconds() -> float:
    """CPU seconds that ended child processes have used; wall time depends on what else the machine does."""
    used = os.times()
    return used.children_user + used.children_system


def test_lists_pages_and_helps_import_nothing_but_python() -> None:
    assert imported(*AT_ONCE) == {"lightning_mm"}


def test_the_steps_of_a_study_are_listed_without_torch() -> None:
    study = str(REPOSITORY / "experiments" / "scenes" / "study.yaml")
    submit = ["submit", "local", "--dry_run", "--", "compare", "-c", study]
    before = children_seconds()
    found = imported(["compare", "-c", study, "--dry_run"], ["status", study], ["status", study, "--json"], submit)
    assert children_seconds() - before < 3, "status answers within a second, a submission is shown within three"
    assert found.isdisjoint({"torch", "lightning", "jaxtyping", "wandb", "matplotlib"})
