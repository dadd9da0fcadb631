"""Put the files of an export in their places all at once, or leave nothing behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_mm.errors import LightningMMError
from lightning_mm.export.index import INDEX, read_index


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """A folder beside the places of the files; when all went well, they are moved there, the index last.

    Files of an earlier export that the new one does not have are deleted; folders that were made are taken away again
    when it fails.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            taken = next((one for one in (folder, *folder.parents) if one.is_file()), folder)
            raise LightningMMError(f"cannot export to {folder}: a folder is needed at {taken}, a file") from error
        with tempfile.TemporaryDirectory(dir=folder, prefix=".exporting-") as name:
            beside = Path(name)
            yield beside
            before, files = files_of(folder), files_of(beside)
            for file in [*files, INDEX]:
                os.replace(beside / file, folder / file)
            for file in before - files:
                (folder / file).unlink(missing_ok=True)
    except BaseException:
        for one in made:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()
        raise


def files_of(folder: Path) -> set[str]:
    """Files of the export that is there already; only plain names, whatever its index says."""
    try:
        return {file for file in read_index(folder).files() if Path(file).name == file}
    except LightningMMError:
        return set()
