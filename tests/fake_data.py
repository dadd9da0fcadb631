"""Every data set that is read from disk, as small generated files in its true layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import test_data_av_digits
import test_data_food101
import test_data_mosi_features
import test_data_ms_lesions
import test_data_ombria
import test_data_utd_mhad

FOLDERS = {
    "ombria": "ombria",
    "utd_mhad": "utd_mhad",
    "av_digits": "fsdd_mnist",
    "ms_lesions": "ms_lesions",
    "mosi": "mosi_bclstm",
    "food101": "food101",
}
"""Family of experiments to the folder of its data under ``LIGHTNING_MM_DATA``."""

_WRITERS: dict[str, Callable[[Path], object]] = {
    "ombria": lambda root: test_data_ombria._write(
        root, {"train": test_data_ombria.TRAIN, "test": test_data_ombria.TEST}
    ),
    "utd_mhad": lambda root: test_data_utd_mhad._write(root, test_data_utd_mhad._arrays()),
    "av_digits": lambda root: test_data_av_digits._write(root),
    "ms_lesions": lambda root: test_data_ms_lesions._write(root),
    "mosi": lambda root: test_data_mosi_features._write(root, test_data_mosi_features._arrays()),
    "food101": lambda root: test_data_food101._write(root),
}


def write_data(family: str, root: Path) -> Path:
    """Write the data set of a family under ``root``, the value of ``LIGHTNING_MM_DATA``; generated sets need nothing.

    Returns:
        The folder of the data set.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root / FOLDERS.get(family, family)
    if family in _WRITERS:
        _WRITERS[family](folder)
    return folder
