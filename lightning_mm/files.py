"""Atomic writes: a file holds its old content or its new one, never half of one, also after a kill."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PART = ".part"


def replace_file(path: Path, write: Callable[[IO[bytes]], Any]) -> Path:
    """Let ``write`` fill a temporary file next to ``path``, force it to the disk, and rename it to ``path``.

    Temporary files left by a killed process are removed first.

    Args:
        path: The file; missing folders are made.
        write: Writes the content into the binary file it is given.

    Returns:
        ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}-*{PART}"):
        _remove_if_unlocked(left)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            _lock(file)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only the owner may read; give it the rights of any new file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed or the process ends; ``False`` if another process has it or locks do not exist."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_if_unlocked(path: Path) -> None:
    try:
        with path.open("rb") as file:
            if _lock(file):
                path.unlink()
    except OSError:
        # Another process was faster, or we lack the right to remove it.
        return
