"""A Slurm on this machine for the tests of this folder, which are skipped where it is not installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY

SCRIPT = REPOSITORY / "tests" / "support" / "slurm_loopback.sh"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")


@dataclass(frozen=True)
class Loopback:
    """A Slurm of two nodes of 4 CPUs; partitions ``main`` and ``urgent``, which preempts it; no accounting.

    Args:
        folder: Its configuration and logs.
        environment: What a command needs to find it, and what ranks need to find each other.
    """

    folder: Path
    environment: dict[str, str]

    def node(self, what: str, name: str) -> None:
        """Let a node fail (``down``) or come back (``up``)."""
        subprocess.run([SCRIPT, what, self.folder, name], check=True, timeout=60)


def port_with_neighbours() -> int:
    """A port that is free, with the two after it."""
    for _ in range(50):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                for more in (1, 2):
                    with socket.socket() as other:
                        other.bind(("127.0.0.1", port + more))
            except (OSError, OverflowError):
                continue
            return int(port)
    pytest.skip("no three free ports in a row")


@pytest.fixture(scope="session")
def loopback() -> Iterator[Loopback]:
    """The cluster, once for all tests of a worker."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} on this machine; apt-get install slurm-wlm munge")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path may have 107 characters
    start = subprocess.run(
        [SCRIPT, "start", folder, str(port_with_neighbours())], capture_output=True, text=True, check=False, timeout=300
    )
    try:
        if start.returncode:
            pytest.skip(f"Slurm does not start here: {start.stderr.strip()}")
        yield Loopback(
            folder,
            {
                "SLURM_CONF": str(folder / "slurm.conf"),
                # the names of the nodes do not resolve
                "MASTER_ADDR": "127.0.0.1",
                "GLOO_SOCKET_IFNAME": "lo",
                "OMP_NUM_THREADS": "1",
            },
        )
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=False, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """The cluster, found by the commands that a test runs."""
    for name, value in loopback.environment.items():
        monkeypatch.setenv(name, value)
    return loopback
