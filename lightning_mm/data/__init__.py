"""The data module, augmentations and the data sets."""

from lightning_mm.data.augment import Augmentation, Compose, Dihedral, RandomCropResize
from lightning_mm.data.augment_sequences import JitterSequences, WarpSequences
from lightning_mm.data.collate import Collate
from lightning_mm.data.datasets.av_digits import AVDigits
from lightning_mm.data.datasets.food101 import Food101
from lightning_mm.data.datasets.mosi_features import MosiFeatures
from lightning_mm.data.datasets.ms_lesions import MsLesions
from lightning_mm.data.datasets.ombria import Ombria
from lightning_mm.data.datasets.scenes import Scenes
from lightning_mm.data.datasets.utd_mhad import UtdMhad
from lightning_mm.data.module import ModalityDropoutDataModule

__all__ = [
    "AVDigits",
    "Augmentation",
    "Collate",
    "Compose",
    "Dihedral",
    "Food101",
    "JitterSequences",
    "ModalityDropoutDataModule",
    "MosiFeatures",
    "MsLesions",
    "Ombria",
    "RandomCropResize",
    "Scenes",
    "UtdMhad",
    "WarpSequences",
]
