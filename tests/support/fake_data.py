"""Every data set that is read from disk, as small generated files in its true layout."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_mm.data import CmuMosei, CmuMosi, Food101, MCubeS, MFNet, NtuRgbd, NYUDv2
from tests.data import test_av_digits as test_data_av_digits
from tests.data import test_cmu_mosi as test_data_cmu_mosi
from tests.data import test_food101 as test_data_food101
from tests.data import test_mcubes as test_data_mcubes
from tests.data import test_mfnet as test_data_mfnet
from tests.data import test_mosi_features as test_data_mosi_features
from tests.data import test_ms_lesions as test_data_ms_lesions
from tests.data import test_ntu_rgbd as test_data_ntu_rgbd
from tests.data import test_nyudv2 as test_data_nyudv2
from tests.data import test_ombria as test_data_ombria
from tests.data import test_utd_mhad as test_data_utd_mhad

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

FETCHED: dict[str, Any] = {
    "mfnet": MFNet,
    "nyudv2": NYUDv2,
    "mcubes": MCubeS,
    "cmu_mosi": CmuMosi,
    "cmu_mosei": CmuMosei,
    "food101": Food101,
    "ntu_rgbd": NtuRgbd,
}
"""Family to its data set, for the seven that nobody could run here on their true files."""

SMALL: dict[str, dict[str, Any]] = {
    "food101": {"size": 64, "max_text_length": 6},
    "ntu_rgbd": {"frames": 4, "size": 16, "resize": (24, 18)},
}
"""Arguments that suit the generated files of these seven."""

_ONLY = {
    "mfnet": ("thermal", "ther"),
    "nyudv2": ("hha", "HHA"),
    "mcubes": ("dolp", "polL_dolp"),
    "food101": ("image", "images"),
    "ntu_rgbd": ("depth", "nturgb+d_depth_masked"),
}


def lose_modality(family: str, folder: Path) -> str:
    """Take one modality away from all samples of the folder that :func:`write_data` gave, one of the seven.

    Returns:
        The modality.
    """
    if family in _ONLY:
        name, place = _ONLY[family]
        shutil.rmtree(folder / place)
        return name
    for path in folder.glob("*.pkl"):
        content = pickle.loads(path.read_bytes())
        for part in content.values():
            del part["audio"]
        path.write_bytes(pickle.dumps(content))
    return "audio"


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
