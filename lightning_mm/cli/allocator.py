"""Lets a process keep the memory that it frees, as training needs the same amount again in the next step."""

from __future__ import annotations

import ctypes
import os
import sys

OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Environment variables by which a user has chosen how memory is handled."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 1 << 30
"""Bytes; a block above it goes back to the system at once, as does free memory at the end of the heap above it."""


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks of up to 1 GiB for the next allocation.

    By default it may return large blocks to the system, which then has to clear every page of the next one: up to a
    quarter of the time of a training step on a CPU, see experiments/benchmarks/training.py. Memory on a GPU is
    PyTorch's own affair.

    Returns:
        Whether it was done; not if the user chose settings (:data:`OWN_SETTINGS`), nor with another C library.

    Reference:
        mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in OWN_SETTINGS):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_M_MMAP_THRESHOLD, _LARGEST) and library.mallopt(_M_TRIM_THRESHOLD, _LARGEST))
