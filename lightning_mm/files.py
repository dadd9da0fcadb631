"""Files that are whole or not there, and a lock.

Everything is written next to its target, forced to the disk and renamed. A kill at any moment leaves the old file or
the new one; what a killed process left next to it is removed by the next write. New files get the permissions that the
umask gives, and a symbolic link stays: its target is replaced.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lightning_mm.errors import LightningMMError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PART = ".part"
FULL = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))
"""Errors of a disk, a quota or a file that may not grow."""
CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO})
"""Errors of a place that cannot be written to, for lack of permission or of a working disk."""


def write_atomically(path: str | Path, content: bytes | str | Callable[[IO[bytes]], Any]) -> Path:
    """Write a file as a whole.

    Args:
        path: Its folder is made if missing.
        content: Bytes, text (written as UTF-8), or a function that writes to the open file.

    Returns:
        The path.

    Raises:
        LightningMMError: If there is a folder at ``path``, or a file where a folder is needed, or the disk is full or
            cannot be written to; the old file is then unchanged.
    """
    with replaced_file(path) as part, part.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def replaced_file(path: str | Path) -> Iterator[Path]:
    """Yield the place of a new file, and rename it to ``path`` at the end, unless there was an exception.

    For writers that take a path; others use :func:`write_atomically`.
    """
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    if path.exists() and not path.is_file():
        way_out = "a folder; give a file in it" if path.is_dir() else "no regular file; give another path"
        raise LightningMMError(f"cannot write {path}: it is {way_out}")
    make_folder(path.parent)
    with writing(path), _part(path.parent, path.name, Path.touch) as part:
        yield part
        _force(part)
        os.replace(part, path)
    _force_names(path.parent)


@contextmanager
def replaced_files(folder: str | Path, last: str) -> Iterator[Path]:
    """Yield an empty folder for new files, and move them into ``folder`` at the end, unless there was an exception.

    Each file is moved as a whole; a kill between two moves leaves some new and some old ones. Other files stay.

    Args:
        folder: Made if missing, and taken away again after an exception.
        last: The file that is moved last, for readers that look for it first.
    """
    folder = Path(folder)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        make_folder(folder)
        with writing(folder), _part(folder, "files", Path.mkdir) as part:
            yield part
            names = sorted((path.name for path in part.iterdir()), key=lambda name: (name == last, name))
            for name in names:
                _force(part / name)
            _move(part, folder, names)
        _force_names(folder)
    except BaseException:
        for one in made:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()
        raise


def _move(part: Path, folder: Path, names: Sequence[str]) -> None:
    """Move files, all of them when a signal or Ctrl-C comes between two."""
    try:
        for name in names:
            os.replace(part / name, folder / name)
    except BaseException as error:
        if not isinstance(error, Exception):
            for name in names:
                if (part / name).exists():
                    os.replace(part / name, folder / name)
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, if missing.

    Raises:
        LightningMMError: If one of them is a file, which the message names, or it cannot be made.
    """
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise _taken(folder) from error


def sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_folder(folder: str | Path) -> None:
    """Check that files can be written to a folder, which need not exist; nothing is made.

    Raises:
        LightningMMError: If one of its parents is a file, or the place cannot be written to.
    """
    folder = Path(folder)
    there = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), None)
    if there is None:
        return
    if not there.is_dir():
        raise _taken(folder)
    if not os.access(there, os.W_OK | os.X_OK):
        raise LightningMMError(
            f"cannot write to {folder}: no permission to write to {there}, or it is read-only; give another folder"
        )


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed processes have left half written in a folder; what a living one writes stays."""
    _sweep_out(Path(folder), "")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Explain a full disk and a place that cannot be written to within the block.

    Raises:
        LightningMMError: The message names ``path`` and what to do; other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise LightningMMError(f"cannot write {path}: {error.strerror}; {MAKE_ROOM}") from error
        if error.errno in CLOSED:
            raise LightningMMError(f"cannot write {path}: {error.strerror}; give another folder") from error
        raise


MAKE_ROOM = "make room there or give another folder, then run it again"


def _taken(folder: Path) -> LightningMMError:
    taken = next((one for one in (folder, *folder.parents) if os.path.lexists(one) and not one.is_dir()), folder)
    return LightningMMError(f"cannot write to {folder}: a folder is needed at {taken}, which is a file")


@contextmanager
def lock(path: Path, way_out: str = "wait until it ends", wait: bool = False) -> Iterator[None]:
    """Hold a lock file, so that one process at a time works in its folder; the end of the process frees it too.

    Windows has no such lock; there, nothing is held.

    Args:
        path: The lock file, made if missing; it stays.
        way_out: What the error advises.
        wait: Whether to wait for the lock.

    Raises:
        LightningMMError: If another process holds the lock and ``wait`` is False; the message names the process.
    """
    make_folder(path.parent)
    with path.open("a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise LightningMMError(f"another process ({holder}) works in {path.parent}; {way_out}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file; False where the system has no such lock or the file is not there."""
    if fcntl is None:
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def _part(folder: Path, name: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder, held while it is written; those that nobody holds are leftovers and are removed."""
    _sweep_out(folder, f"{name}-")
    part = folder / f".{name}-{secrets.token_hex(8)}{PART}"
    make(part)
    try:
        with _held(part):
            yield part
    finally:
        _remove(part)


def _sweep_out(folder: Path, start: str) -> None:
    for left in folder.glob(f".{glob.escape(start)}*{PART}"):
        with _held(left) as alone:
            if alone:
                _remove(left)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a file or folder until the end of the block or process; False if another process does, or nobody can."""
    handle, held = None, False
    if fcntl is not None:
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
    try:
        yield held
    finally:
        if handle is not None:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _force(path: Path) -> None:
    """Force a file to the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _force_names(folder: Path) -> None:
    """Force the names of a folder's files to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
