"""The data module, augmentations and the data sets."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lightning_mm.data.augment.base import Augmentation, Compose, Dihedral, RandomCropResize
from lightning_mm.data.augment.clips import CropClips, FlipClips
from lightning_mm.data.augment.images import ColorJitter, GaussianBlur, HorizontalFlip, RandomCrop, RandomScaleCrop
from lightning_mm.data.augment.sequences import JitterSequences, WarpSequences
from lightning_mm.data.collate import Collate
from lightning_mm.data.datasets.av_digits import AVDigits
from lightning_mm.data.datasets.cmu_mosi import CmuMosei, CmuMosi
from lightning_mm.data.datasets.food101 import Food101
from lightning_mm.data.datasets.mcubes import MCubeS
from lightning_mm.data.datasets.mfnet import MFNet
from lightning_mm.data.datasets.mosi_features import MosiFeatures
from lightning_mm.data.datasets.ms_lesions import MsLesions
from lightning_mm.data.datasets.ntu_rgbd import NtuRgbd
from lightning_mm.data.datasets.nyudv2 import NYUDv2
from lightning_mm.data.datasets.ombria import Ombria
from lightning_mm.data.datasets.scenes import Scenes
from lightning_mm.data.datasets.utd_mhad import UtdMhad

if TYPE_CHECKING:
    from lightning_mm.data.module import ModalityDropoutDataModule

__all__ = [
    "AVDigits",
    "Augmentation",
    "CmuMosei",
    "CmuMosi",
    "Collate",
    "ColorJitter",
    "Compose",
    "CropClips",
    "Dihedral",
    "FlipClips",
    "Food101",
    "GaussianBlur",
    "HorizontalFlip",
    "JitterSequences",
    "MCubeS",
    "MFNet",
    "ModalityDropoutDataModule",
    "MosiFeatures",
    "MsLesions",
    "NYUDv2",
    "NtuRgbd",
    "Ombria",
    "RandomCrop",
    "RandomCropResize",
    "RandomScaleCrop",
    "Scenes",
    "UtdMhad",
    "WarpSequences",
]


def __getattr__(name: str) -> object:
    # It alone needs Lightning, which takes seconds to import: `lightning-mm data` does without.
    if name == "ModalityDropoutDataModule":
        return getattr(import_module("lightning_mm.data.module"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
