"""The data module, augmentations and the data sets."""

from lightning_mm.data.augment import Augmentation, Compose, Dihedral, RandomCropResize
from lightning_mm.data.collate import Collate
from lightning_mm.data.datasets.ombria import Ombria
from lightning_mm.data.datasets.scenes import Scenes
from lightning_mm.data.module import ModalityDropoutDataModule

__all__ = [
    "Augmentation",
    "Collate",
    "Compose",
    "Dihedral",
    "ModalityDropoutDataModule",
    "Ombria",
    "RandomCropResize",
    "Scenes",
]
