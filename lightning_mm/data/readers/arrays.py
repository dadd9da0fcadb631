"""Reading the arrays of ``.npz`` and ``.npy`` files: errors name the file, what was expected, and the way out.

Pickled objects are refused, since they can run code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.data.readers.damage import reading
from lightning_mm.errors import LightningMMError

BOOLEANS, INTEGERS, NUMBERS, STRINGS = "b", "iu", "iuf", "U"
"""Kinds of arrays for :func:`read_npz`, letters of ``numpy.dtype.kind``; a sum of them allows either."""

_KINDS = {"b": "booleans", "i": "integers", "u": "integers", "f": "floats", "U": "strings"}


def read_npz(path: Path, expected: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an ``.npz`` file.

    Args:
        path: The file.
        expected: Name of every array to its kinds, such as ``INTEGERS``, and its number of dimensions.

    Raises:
        DataNotFoundError: If the file is not there.
        PermissionError: If it may not be read.
        LightningMMError: If the file is damaged, lacks one of the arrays, or holds another kind or rank in one.
    """
    # Opened here, since np.load leaves the file open when the archive is damaged.
    with reading(path), path.open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an archive of arrays")
        lacking = [key for key in expected if key not in archive.files]
        if lacking:
            raise LightningMMError(
                f"{path} lacks the arrays {lacking}; expected {list(expected)}, got {sorted(archive.files)}"
            )
        arrays = {key: archive[key] for key in expected}
    for key, (kinds, rank) in expected.items():
        if arrays[key].dtype.kind not in kinds or arrays[key].ndim != rank:
            names = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
            raise LightningMMError(
                f"{path}: expected {key} to hold {names} in {rank} dimensions, got {arrays[key].dtype} of shape "
                f"{arrays[key].shape}; copy it again from the source"
            )
    return arrays


def read_array(path: Path) -> NDArray[np.float32]:
    """Read an ``.npy`` file of ``[H, W]`` finite numbers.

    Raises:
        DataNotFoundError: If the file is not there.
        PermissionError: If it may not be read.
        LightningMMError: If it is damaged or holds something else.
    """
    with reading(path), path.open("rb") as file:
        values = np.load(file, allow_pickle=False)
        if not isinstance(values, np.ndarray):
            raise ValueError("an archive, not one array")
    if values.dtype.kind not in "iuf" or values.ndim != 2:
        raise LightningMMError(f"{path}: expected numbers [H, W], got {values.dtype} of shape {values.shape}")
    numbers: NDArray[np.float32] = values.astype(np.float32)
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        raise LightningMMError(f"{path} holds {bad} values that are not finite; copy it again from the source")
    return numbers


def check_labels(place: object, labels: NDArray[Any], allowed: Iterable[int], expected: str) -> None:
    """Raise a LightningMMError that shows the first labels that are not allowed.

    Args:
        place: Where they are from, for the error.
        labels: Whole numbers in any shape.
        allowed: The allowed ones.
        expected: What they are, for the error: ``"0 (dry) and 255 (flood)"``.
    """
    wrong = ~np.isin(labels, np.asarray(list(allowed)))
    if wrong.any():
        raise LightningMMError(
            f"label out of range in {place}: expected {expected}, got {np.unique(labels[wrong])[:8].tolist()}"
        )


def fit_about_centre(values: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    """Pad with 0 or crop the last axes about their centre.

    Args:
        values: Anything with at least as many axes as ``size``.
        size: Entries of each of the last axes afterwards.

    Example:
        >>> fit_about_centre(np.array([[1, 2, 3, 4]]), (3, 2)).tolist()
        [[0, 0], [2, 3], [0, 0]]
    """
    kept, placed = zip(*(_overlap(had, wanted) for had, wanted in zip(values.shape[-len(size) :], size)))
    fitted = np.zeros((*values.shape[: -len(size)], *size), dtype=values.dtype)
    fitted[(..., *placed)] = values[(..., *kept)]
    return fitted


def _overlap(side: int, size: int) -> tuple[slice, slice]:
    """Say what is kept of an axis, and where it is placed, when ``side`` entries become ``size`` about their centre."""
    length = min(side, size)
    kept, placed = (side - length) // 2, (size - length) // 2
    return slice(kept, kept + length), slice(placed, placed + length)
