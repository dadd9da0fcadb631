"""The data module, augmentations and the data sets; each is imported when asked for, since torch takes seconds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_mm.data.augment.base import Augmentation, Compose, Dihedral, RandomCropResize
    from lightning_mm.data.augment.clips import CropClips, FlipClips
    from lightning_mm.data.augment.images import ColorJitter, GaussianBlur, HorizontalFlip, RandomCrop, RandomScaleCrop
    from lightning_mm.data.augment.sequences import JitterSequences, WarpSequences
    from lightning_mm.data.collate import Collate
    from lightning_mm.data.corrupt.base import Corruption
    from lightning_mm.data.corrupt.frames import DroppedFrames
    from lightning_mm.data.corrupt.mixed import RandomCorruption
    from lightning_mm.data.corrupt.pixels import Blur, GaussianNoise, MissingPixels, Occlusion
    from lightning_mm.data.datasets.av_digits import AVDigits
    from lightning_mm.data.datasets.cmu_mosi import CmuMosei, CmuMosi, Iemocap
    from lightning_mm.data.datasets.image_text.easy_vqa import EasyVqa
    from lightning_mm.data.datasets.image_text.food101 import Food101
    from lightning_mm.data.datasets.mcubes import MCubeS
    from lightning_mm.data.datasets.mfnet import MFNet
    from lightning_mm.data.datasets.mosi_features import MosiFeatures
    from lightning_mm.data.datasets.ms_lesions import MsLesions
    from lightning_mm.data.datasets.ntu_rgbd import NtuRgbd
    from lightning_mm.data.datasets.nyudv2 import NYUDv2
    from lightning_mm.data.datasets.ombria import Ombria
    from lightning_mm.data.datasets.ravdess_features import RavdessFeatures
    from lightning_mm.data.datasets.scenes import Scenes
    from lightning_mm.data.datasets.utd_mhad import UtdMhad
    from lightning_mm.data.datasets.volumes.brats import BraTS
    from lightning_mm.data.module import ModalityDropoutDataModule

__all__ = [
    "AVDigits", "Augmentation", "Blur", "BraTS", "CmuMosei", "CmuMosi", "Collate", "ColorJitter", "Compose",
    "Corruption", "CropClips", "Dihedral", "DroppedFrames", "EasyVqa", "FlipClips", "Food101", "GaussianBlur",
    "GaussianNoise", "HorizontalFlip", "Iemocap", "JitterSequences", "MCubeS", "MFNet", "MissingPixels",
    "ModalityDropoutDataModule", "MosiFeatures", "MsLesions", "NYUDv2", "NtuRgbd", "Occlusion", "Ombria",
    "RandomCorruption", "RandomCrop", "RandomCropResize", "RandomScaleCrop", "RavdessFeatures", "Scenes", "UtdMhad",
    "WarpSequences",
]  # fmt: skip

_MODULES = {
    "augment.base": "Augmentation Compose Dihedral RandomCropResize",
    "augment.clips": "CropClips FlipClips",
    "augment.images": "ColorJitter GaussianBlur HorizontalFlip RandomCrop RandomScaleCrop",
    "augment.sequences": "JitterSequences WarpSequences",
    "collate": "Collate",
    "corrupt.base": "Corruption",
    "corrupt.frames": "DroppedFrames",
    "corrupt.mixed": "RandomCorruption",
    "corrupt.pixels": "Blur GaussianNoise MissingPixels Occlusion",
    "datasets.av_digits": "AVDigits",
    "datasets.cmu_mosi": "CmuMosei CmuMosi Iemocap",
    "datasets.image_text.easy_vqa": "EasyVqa",
    "datasets.image_text.food101": "Food101",
    "datasets.mcubes": "MCubeS",
    "datasets.mfnet": "MFNet",
    "datasets.mosi_features": "MosiFeatures",
    "datasets.ms_lesions": "MsLesions",
    "datasets.ntu_rgbd": "NtuRgbd",
    "datasets.nyudv2": "NYUDv2",
    "datasets.ombria": "Ombria",
    "datasets.ravdess_features": "RavdessFeatures",
    "datasets.scenes": "Scenes",
    "datasets.utd_mhad": "UtdMhad",
    "datasets.volumes.brats": "BraTS",
    "module": "ModalityDropoutDataModule",
}
"""Module to the names that come from it."""


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names.split():
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
