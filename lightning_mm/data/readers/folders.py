"""Where a data set lies on disk, and reading its arrays: errors name the place, what was sought, and the way out."""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import DataNotFoundError, LightningMMError

BOOLEANS, INTEGERS, NUMBERS, STRINGS = "b", "iu", "iuf", "U"
"""Kinds of arrays for :func:`read_npz`, letters of ``numpy.dtype.kind``; a sum of them allows either."""

_KINDS = {"b": "booleans", "i": "integers", "u": "integers", "f": "floats", "U": "strings"}


def find_folder(data_set: str, folder: str, root: str | None, needed: Sequence[str]) -> Path:
    """The folder of a data set, after all files that it needs were seen there.

    Args:
        data_set: Name of the data set, the first word of every error.
        folder: Name of its folder under ``$LIGHTNING_MM_DATA``, used when ``root`` is not given.
        root: The folder itself.
        needed: Names of the files that must be in it.

    Raises:
        DataNotFoundError: If no folder is set, the folder is not there, or files are missing; all of them are named.
    """
    files = ", ".join(needed)
    way_out = f"set LIGHTNING_MM_DATA to the folder that holds {folder}/, or root to the folder that holds {files}"
    if root is None:
        base = os.environ.get("LIGHTNING_MM_DATA")
        if not base:
            raise DataNotFoundError(f"{data_set}: no data folder is set; {way_out}")
        root = str(Path(base) / folder)
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataNotFoundError(f"{data_set}: the folder {path} does not exist; {way_out}")
    missing = [name for name in needed if not (path / name).is_file()]
    if missing:
        raise DataNotFoundError(f"{data_set}: the folder {path} lacks {', '.join(missing)}; {way_out}")
    return path


def read_npz(path: Path, expected: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """The named arrays of an ``.npz`` file; pickled objects are refused, since they can run code.

    Args:
        path: The file.
        expected: Name of every array to its kinds, such as ``INTEGERS``, and its number of dimensions.

    Raises:
        DataNotFoundError: If the file is not there.
        PermissionError: If it may not be read.
        LightningMMError: If the file is damaged, lacks one of the arrays, or holds another kind or rank in one.
    """
    try:
        # Opened here, since np.load leaves the file open when the archive is damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("one array, not an archive of arrays")
            found = archive.files
            lacking = [key for key in expected if key not in found]
            arrays = {} if lacking else {key: archive[key] for key in expected}
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} is not there; copy it from the source") from error
    except PermissionError:  # an OSError, but no damage
        raise
    # NumPy and zipfile tell of damage in all of these ways, depending on where it begins.
    except (
        OSError,
        ValueError,
        EOFError,
        SyntaxError,
        NotImplementedError,
        struct.error,
        tokenize.TokenError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise LightningMMError(f"{path} is damaged ({error}); copy it again from the source") from error
    if lacking:
        raise LightningMMError(f"{path} lacks the arrays {lacking}; expected {list(expected)}, got {sorted(found)}")
    for key, (kinds, rank) in expected.items():
        if arrays[key].dtype.kind not in kinds or arrays[key].ndim != rank:
            names = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
            raise LightningMMError(
                f"{path}: expected {key} to hold {names} in {rank} dimensions, got {arrays[key].dtype} of shape "
                f"{arrays[key].shape}; copy it again from the source"
            )
    return arrays
