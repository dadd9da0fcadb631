"""Replaces the files of an export all at once, or leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_mm.errors import LightningMMError
from lightning_mm.export.index import INDEX, read_index
from lightning_mm.files import replaced_files

OLD_PARTS = ".exporting-*"
"""Folders that a killed export of an older version has left; those of ``replaced_files`` are removed there."""


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """Yield a folder for the files of an export; without an exception, they are moved to ``folder``, the index last.

    Files of an earlier export that the new one does not have are deleted, and what a killed one has left.
    """
    for left in folder.glob(OLD_PARTS):
        shutil.rmtree(left, ignore_errors=True)
    with replaced_files(folder, last=INDEX) as part:
        yield part
        before, files = files_of(folder), files_of(part)
    for file in before - files:
        (folder / file).unlink(missing_ok=True)


def files_of(folder: Path) -> set[str]:
    """List the files of an existing export; paths in its index that lead elsewhere are left out."""
    try:
        return {file for file in read_index(folder).files() if Path(file).name == file}
    except LightningMMError:
        return set()
