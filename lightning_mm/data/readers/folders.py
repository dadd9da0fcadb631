"""Where a data set is on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lightning_mm.errors import DataNotFoundError


def find_folder(data_set: str, folder: str, root: str | None, needed: Sequence[str], all_of: bool = True) -> Path:
    """Find the folder of a data set and check that it holds what is needed.

    Args:
        data_set: Name of the data set, the first word of every error.
        folder: Name of its folder under ``$LIGHTNING_MM_DATA``, used when ``root`` is not given.
        root: The folder itself.
        needed: Names of the files that must be in it; a name that ends in ``/`` is a folder.
        all_of: Whether all of them are needed, or one is enough.

    Raises:
        DataNotFoundError: If no folder is set, the folder does not exist, or files are missing; all of them are named.
    """
    files = (", " if all_of else " or ").join(needed)
    way_out = f"set LIGHTNING_MM_DATA to the folder that holds {folder}/, or root to the folder that holds {files}"
    if root is None:
        base = os.environ.get("LIGHTNING_MM_DATA")
        if not base:
            raise DataNotFoundError(f"{data_set}: no data folder is set; {way_out}")
        root = str(Path(base) / folder)
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataNotFoundError(f"{data_set}: the folder {path} does not exist; {way_out}")
    missing = [
        name for name in needed if not ((path / name).is_dir() if name.endswith("/") else (path / name).is_file())
    ]
    if missing and (all_of or len(missing) == len(needed)):
        raise DataNotFoundError(f"{data_set}: the folder {path} lacks {', '.join(missing)}; {way_out}")
    return path
