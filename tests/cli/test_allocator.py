"""Freed memory is kept for the next step, unless the user chose otherwise."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from lightning_mm.cli.allocator import OWN_SETTINGS, keep_freed_memory

COUNTS = """
import resource
import numpy as np
{before}
def faults(times):
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        [np.ones(2 ** 20) for _ in range(8)]  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
faults(3)
print(faults(10))
"""
GLIBC = platform.libc_ver()[0] == "glibc"


def page_faults(before: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", COUNTS.format(before=before)], capture_output=True, check=True, text=True
    )
    return int(run.stdout)


@pytest.mark.skipif(not GLIBC, reason="another C library than glibc")
def test_pages_are_cleared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NUMPY_MADVISE_HUGEPAGE", "0")
    kept = page_faults("from lightning_mm.cli.allocator import keep_freed_memory; assert keep_freed_memory()")
    assert kept < 1_000 < 10_000 < page_faults("")


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_leaves_what_the_user_chose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
