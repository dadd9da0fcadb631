"""Files are whole or not there, whenever a process is killed; a lock ends with its process."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from lightning_mm.errors import LightningMMError
from lightning_mm.files import (
    PART,
    check_folder,
    lock,
    make_folder,
    remove_leftovers,
    replaced_file,
    replaced_files,
    write_atomically,
)
from tests.support.repository import REPOSITORY

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has neither flock nor umask")

OLD, NEW = "old\n" * 1000, "new\n" * 2000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "content", [NEW, NEW.encode(), lambda file: file.write(NEW.encode())], ids=["text", "bytes", "function"]
)
def test_a_file_gets_its_content_and_nothing_else_is_left(tmp_path: Path, content: object) -> None:
    path = tmp_path / "made" / "here" / "a[1].txt"
    for _ in range(2):
        assert write_atomically(path, content) == path  # type: ignore[arg-type]
        assert path.read_text() == NEW
    assert names(path.parent) == [path.name]


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(OLD)

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == OLD
    assert names(tmp_path) == ["a.txt"]


# A kill at each of these calls, before it happens: the process ends there and nothing is cleaned up.
KILLED = """
import os, sys
from pathlib import Path
from lightning_mm import files

point, count, path = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
real, calls = getattr(os, point), []

def die(*arguments, **settings):
    calls.append(point)
    if len(calls) == count:
        os._exit(9)
    return real(*arguments, **settings)

def half(file):
    file.write(b"new\\n" * 1000)
    file.flush()
    if point == "write":
        os._exit(9)
    file.write(b"new\\n" * 1000)

setattr(os, point, die)
if path.suffix:
    files.write_atomically(path, half)
else:
    with files.replaced_files(path, last="a.txt") as part:
        for name in ("a.txt", "b.txt"):
            (part / name).write_bytes(b"new\\n" * 2000)
"""


def killed_at(point: str, count: int, path: Path) -> int:
    command = [sys.executable, "-c", KILLED, point, str(count), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environment, check=False).returncode


@posix
@pytest.mark.parametrize(
    ("point", "count", "content"),
    [("write", 1, OLD), ("fsync", 1, OLD), ("replace", 1, OLD), ("fsync", 2, NEW), ("fsync", 3, NEW)],
    ids=["half_written", "before_it_is_forced", "before_it_is_renamed", "after_it_is_renamed", "not_at_all"],
)
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path, point: str, count: int, content: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(OLD)

    assert killed_at(point, count, path) == (0 if count == 3 else 9)
    assert path.read_text() == content
    write_atomically(path, NEW)
    assert names(tmp_path) == ["a.txt"]  # what the killed process left is removed


@posix
@pytest.mark.parametrize(
    ("point", "count", "new"),
    [("fsync", 2, []), ("replace", 1, []), ("replace", 2, ["b.txt"]), ("fsync", 3, ["a.txt", "b.txt"])],
)
def test_a_kill_leaves_every_file_of_a_folder_whole(tmp_path: Path, point: str, count: int, new: list[str]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.txt", "b.txt", "own.txt"):
        (folder / name).write_text(OLD)

    assert killed_at(point, count, folder) == 9
    for name in ("a.txt", "b.txt", "own.txt"):
        assert (folder / name).read_text() == (NEW if name in new else OLD)
    with replaced_files(folder, last="a.txt") as part:
        (part / "a.txt").write_text("newest")
    assert names(folder) == ["a.txt", "b.txt", "own.txt"]
    assert (folder / "a.txt").read_text() == "newest"


def test_folders_that_were_made_are_taken_away_again_after_an_exception(tmp_path: Path) -> None:
    def fail() -> None:
        with replaced_files(tmp_path / "made" / "here", last="a.txt") as part:
            (part / "a.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == []


@posix
def test_what_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    """Two writers of one file at the same time do not disturb each other; leftovers of other files stay."""
    (tmp_path / f".a.txt-0123{PART}").write_text("half")
    (tmp_path / f".other.txt-0123{PART}").write_text("half")

    def write_while_another_one_does(file: IO[bytes]) -> None:
        write_atomically(tmp_path / "a.txt", "inner")
        file.write(b"outer")

    write_atomically(tmp_path / "a.txt", write_while_another_one_does)
    assert (tmp_path / "a.txt").read_text() == "outer"
    assert names(tmp_path) == [f".other.txt-0123{PART}", "a.txt"]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@posix
def test_permissions_are_those_of_any_new_file_and_links_stay(tmp_path: Path) -> None:
    with umask(0o027):
        write_atomically(tmp_path / "a.txt", OLD)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640

    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "to_a.txt"
    link.symlink_to("../a.txt")
    write_atomically(link, NEW)
    assert link.is_symlink()
    assert (tmp_path / "a.txt").read_text() == NEW


def test_writers_that_take_a_path(tmp_path: Path) -> None:
    with replaced_file(tmp_path / "a.txt") as part:
        part.write_text(NEW)
        assert part.parent == tmp_path  # the same file system
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == NEW


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text(OLD)
    with pytest.raises(LightningMMError, match=r"taken/below: a folder is needed at .*taken, which is a file$"):
        make_folder(tmp_path / "taken" / "below")
    with pytest.raises(LightningMMError, match=r"a folder is needed at .*taken, which is a file$"):
        write_atomically(tmp_path / "taken" / "a.txt", NEW)
    with pytest.raises(LightningMMError, match=r"cannot write .*: it is a folder; give a file in it"):
        write_atomically(tmp_path, NEW)
    assert names(tmp_path) == ["taken"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; make room there or give another folder, then run it again"),
        (errno.EFBIG, "File too large; make room"),
        (errno.EROFS, "Read-only file system; give another folder"),
    ],
)
def test_a_full_disk_leaves_the_old_file_and_is_explained(tmp_path: Path, number: int, words: str) -> None:
    path = write_atomically(tmp_path / "a.txt", OLD)

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(LightningMMError, match=rf"cannot write .*a\.txt: {words}"):
        write_atomically(path, fail)
    assert path.read_text() == OLD
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_looked_at_before_and_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text(OLD)
    check_folder(tmp_path / "not" / "there")
    with pytest.raises(LightningMMError, match=r"a folder is needed at .*taken, which is a file$"):
        check_folder(tmp_path / "taken" / "below")
    assert names(tmp_path) == ["taken"]
    with replaced_file(tmp_path / "new.txt") as part:
        part.write_text(NEW)
        (tmp_path / f".best.ckpt-0123{PART}").write_text("half")
        remove_leftovers(tmp_path)
        assert names(tmp_path) == [part.name, "taken"] or os.name == "nt"


HOLDER = """
import sys, time
from pathlib import Path
from lightning_mm.files import lock

with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@posix
def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "made" / ".lock"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        message = rf"another process \(process {holder.pid} on .*\) works in .*made; give another folder"
        with pytest.raises(LightningMMError, match=message), lock(path, way_out="give another folder"):
            pass
        holder.send_signal(signal.SIGKILL)
        with lock(path, wait=True):  # as soon as the process has ended
            assert f"process {os.getpid()} on" in path.read_text()
    with lock(path):
        pass


@posix
def test_a_lock_is_free_after_an_exception(tmp_path: Path) -> None:
    path = tmp_path / ".lock"

    def fail() -> None:
        with lock(path):
            with pytest.raises(LightningMMError, match=f"process {os.getpid()} on"), lock(path):
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with lock(path):
        pass
