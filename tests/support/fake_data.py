"""Every data set that is read from disk, as small generated files in its true layout."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_mm.data import BraTS, CmuMosei, CmuMosi, Food101, Iemocap, MCubeS, MFNet, NtuRgbd, NYUDv2
from tests.support.fake import (
    av_digits,
    brats,
    cmu_mosi,
    easy_vqa,
    food101,
    mcubes,
    mfnet,
    mosi_features,
    ms_lesions,
    ntu_rgbd,
    nyudv2,
    ombria,
    ravdess_features,
    utd_mhad,
)

FOLDERS = {
    "ombria": "ombria",
    "utd_mhad": "utd_mhad",
    "utd_mhad_retrieval": "utd_mhad",
    "av_digits": "fsdd_mnist",
    "ms_lesions": "ms_lesions",
    "mosi": "mosi_bclstm",
    "ravdess": "ravdess_features",
    "easy_vqa": "easy_vqa",
    "cmu_mosi": "cmu_mosi",
    "cmu_mosei": "cmu_mosei",
    "iemocap": "iemocap",
    "ntu_rgbd": "ntu_rgbd",
    "food101": "food101",
}
"""Family of experiments to the folder of its data under ``LIGHTNING_MM_DATA``."""

_WRITERS: dict[str, Callable[[Path], object]] = {
    "ombria": ombria.write,
    "utd_mhad": utd_mhad.write,
    "utd_mhad_retrieval": utd_mhad.write,
    "av_digits": av_digits.write,
    "ms_lesions": ms_lesions.write,
    "mfnet": mfnet.write,
    "nyudv2": nyudv2.write,
    "mcubes": mcubes.write,
    "ntu_rgbd": ntu_rgbd.write,
    "mosi": mosi_features.write,
    "ravdess": ravdess_features.write,
    "easy_vqa": easy_vqa.write,
    "cmu_mosi": cmu_mosi.write,
    "cmu_mosei": lambda root: cmu_mosi.write(root, kind=CmuMosei),
    "iemocap": lambda root: cmu_mosi.write(root, kind=Iemocap),
    "food101": food101.write,
    "brats": lambda root: brats.write(root, listed=True),
}

FETCHED: dict[str, Any] = {
    "mfnet": MFNet,
    "nyudv2": NYUDv2,
    "mcubes": MCubeS,
    "cmu_mosi": CmuMosi,
    "cmu_mosei": CmuMosei,
    "food101": Food101,
    "ntu_rgbd": NtuRgbd,
    "brats": BraTS,
    "iemocap": Iemocap,
}
"""Family to its data set, for those whose true files were never at hand."""

SMALL: dict[str, dict[str, Any]] = {
    "food101": {"size": 64, "max_text_length": 6},
    "ntu_rgbd": {"frames": 4, "size": 16, "resize": (24, 18)},
}
"""Arguments that suit the generated files of these."""

_ONLY = {
    "mfnet": ("thermal", "ther"),
    "nyudv2": ("hha", "HHA"),
    "mcubes": ("dolp", "polL_dolp"),
    "food101": ("image", "images"),
    "ntu_rgbd": ("depth", "nturgb+d_depth_masked"),
}


def lose_modality(family: str, folder: Path) -> str:
    """Take one modality away from all samples of the folder that :func:`write_data` returned, one of ``FETCHED``.

    Returns:
        The modality.
    """
    if family in _ONLY:
        name, place = _ONLY[family]
        shutil.rmtree(folder / place)
        return name
    if family == "brats":
        for path in folder.rglob("*_t1ce.nii"):
            path.unlink()
        return "t1ce"
    for path in folder.glob("*.pkl"):
        content = pickle.loads(path.read_bytes())
        for part in content.values():
            del part["audio"]
        path.write_bytes(pickle.dumps(content))
    return "audio"


def write_data(family: str, root: Path) -> Path:
    """Write the data set of a family under ``root``, the value of ``LIGHTNING_MM_DATA``; nothing for generated sets.

    Returns:
        The folder of the data set.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = root / FOLDERS.get(family, family)
    if family in _WRITERS:
        _WRITERS[family](folder)
    return folder
