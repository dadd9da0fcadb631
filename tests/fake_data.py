"""Every data set that is read from disk, as small generated files in its true layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import test_data_av_digits
import test_data_cmu_mosi
import test_data_food101
import test_data_mcubes
import test_data_mfnet
import test_data_mosi_features
import test_data_ms_lesions
import test_data_ntu_rgbd
import test_data_nyudv2
import test_data_ombria
import test_data_utd_mhad

from lightning_mm.data import CmuMosei

FOLDERS = {
    "ombria": "ombria",
    "utd_mhad": "utd_mhad",
    "av_digits": "fsdd_mnist",
    "ms_lesions": "ms_lesions",
    "mosi": "mosi_bclstm",
    "cmu_mosi": "cmu_mosi",
    "cmu_mosei": "cmu_mosei",
    "ntu_rgbd": "ntu_rgbd",
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
    "mfnet": lambda root: test_data_mfnet._write(root),
    "nyudv2": lambda root: test_data_nyudv2._write(root),
    "mcubes": lambda root: test_data_mcubes._write(root),
    "ntu_rgbd": lambda root: test_data_ntu_rgbd._write(root),
    "mosi": lambda root: test_data_mosi_features._write(root, test_data_mosi_features._arrays()),
    "cmu_mosi": lambda root: test_data_cmu_mosi._write(root),
    "cmu_mosei": lambda root: test_data_cmu_mosi._write(root, kind=CmuMosei),
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
