"""Plants faults in a copy of the package, one at a time, and prints whether the test of each catches it.

``python -m tests.power`` plants all of them (ten seconds each), ``python -m tests.power NAME ...`` some. The exit code
is 1 if one was missed, 2 if nothing could be planted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.power.fault import Fault
from tests.power.faults import FAULTS
from tests.support.repository import REPOSITORY

FAILED = 1
"""Exit code of pytest if a test failed; others mean that none was run."""


def passes(copy: Path, *tests: str) -> bool:
    """Run tests in the copy, up to the first that fails.

    Raises:
        RuntimeError: If none was run.
    """
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", "-p", "no:cacheprovider", *tests]
    settings = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=copy, env=settings, capture_output=True, text=True, check=False)
    if run.returncode not in (0, FAILED) or (run.returncode == 0 and " passed" not in run.stdout):
        raise RuntimeError(f"{tests} were not run:\n{run.stdout}{run.stderr}")
    return run.returncode == 0


def main(names: list[str]) -> int:
    unknown = set(names) - {fault.name for fault in FAULTS}
    if unknown:
        print(f"no faults are called {sorted(unknown)}; there are {[fault.name for fault in FAULTS]}")
        return 2
    chosen, missed = [fault for fault in FAULTS if not names or fault.name in names], 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("lightning_mm", "tests"):
            shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", copy)
        if not passes(copy, *(fault.caught_by for fault in chosen)):
            print("tests fail in the copy without any fault; run `make test` first")
            return 2
        for fault in chosen:
            missed += not caught(fault, copy)
    return min(missed, 1)


def caught(fault: Fault, copy: Path) -> bool:
    """Plant a fault, run its test, print the answer and take the fault away."""
    file, start = copy / fault.file, time.monotonic()
    sound = file.read_text(encoding="utf-8")
    file.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
    found = not passes(copy, fault.caught_by)
    file.write_text(sound, encoding="utf-8")
    answer = "caught" if found else "missed"
    print(f"{answer}  {fault.name}  {fault.caught_by}  {time.monotonic() - start:.0f} s", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
