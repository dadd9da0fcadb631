"""Reading volumes in NIfTI files, with nibabel."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.data.readers.damage import damaged, reading
from lightning_mm.errors import LightningMMError


def read_volume(path: Path) -> NDArray[np.float32]:
    """Read the values of a volume in the orientation of the file, ``Float32[X, Y, Z]``, scaled as its header says.

    Args:
        path: A file ``.nii`` or ``.nii.gz``.

    Raises:
        DataNotFoundError: If the file is not there.
        PermissionError: If it may not be read.
        LightningMMError: If it is damaged, no volume, or holds values that are not finite; also without nibabel.
    """
    nibabel = _nibabel()
    with reading(path), np.errstate(all="ignore"):
        try:
            values = np.asarray(nibabel.load(path, mmap=False).dataobj, dtype=np.float32)
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # any byte may be wrong, and nibabel has errors of its own for some
            raise damaged(path, f"{type(error).__name__}: {error}") from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or values.size == 0:
        raise LightningMMError(f"{path}: expected a volume of three axes, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise LightningMMError(f"{path} holds values that are not finite; copy it again from the source")
    return values


def _nibabel() -> Any:
    try:
        return import_module("nibabel")
    except ImportError as error:
        raise LightningMMError(
            f"NIfTI files need nibabel, which cannot be imported ({error}): pip install 'lightning-mm[volumes]'"
        ) from error
