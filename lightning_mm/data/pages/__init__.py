"""The pages of the data sets, one file each, by name; they need no torch, so that a list of them is there at once."""

from lightning_mm.data.pages.av_digits import AV_DIGITS
from lightning_mm.data.pages.cmu_mosi import CMU_MOSEI, CMU_MOSI, IEMOCAP
from lightning_mm.data.pages.easy_vqa import EASY_VQA
from lightning_mm.data.pages.food101 import FOOD101
from lightning_mm.data.pages.mcubes import MCUBES
from lightning_mm.data.pages.mfnet import MFNET
from lightning_mm.data.pages.mosi_features import MOSI_FEATURES
from lightning_mm.data.pages.ms_lesions import MS_LESIONS
from lightning_mm.data.pages.ntu_rgbd import NTU_RGBD
from lightning_mm.data.pages.nyudv2 import NYUDV2
from lightning_mm.data.pages.ombria import OMBRIA
from lightning_mm.data.pages.ravdess_features import RAVDESS_FEATURES
from lightning_mm.data.pages.utd_mhad import UTD_MHAD
from lightning_mm.data.pages.volumes.brats import BRATS

PAGES = (
    *(BRATS, CMU_MOSEI, CMU_MOSI, EASY_VQA, FOOD101, AV_DIGITS, IEMOCAP, MCUBES, MFNET, MOSI_FEATURES, MS_LESIONS),
    *(NTU_RGBD, NYUDV2, OMBRIA, RAVDESS_FEATURES, UTD_MHAD),
)
