"""BraTS: segmentation of brain tumours in four MRI sequences, whole volumes or random crops of them.

Shapes: X x Y x Z voxels, in the orientation of the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.labelled_images import Array, LabelledImages
from lightning_mm.data.datasets.base.splits import SPLITS, fraction
from lightning_mm.data.pages.volumes.brats import BRATS
from lightning_mm.data.readers.arrays import check_labels, fit_about_centre
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.data.readers.volumes import read_volume
from lightning_mm.errors import DataNotFoundError, LightningMMError, check_fraction

_ENDINGS = {
    "flair": ("_flair", "-t2f"),
    "t1ce": ("_t1ce", "-t1c"),
    "t1": ("_t1", "-t1n"),
    "t2": ("_t2", "-t2w"),
    "seg": ("_seg", "-seg"),
}
"""Modality to the end of its file's name, to 2021 and from 2023."""
_SUFFIXES = (".nii.gz", ".nii")
_ENHANCING = (3, 4)
"""Label of the enhancing tumour from 2023, and before."""


class BraTS(LabelledImages):
    """Tumour segmentation with four modalities: ``flair``, ``t1ce`` (after contrast agent), ``t1``, ``t2``.

    Files: a folder for each patient, in the root or in ``HGG`` and ``LGG``, that holds ``<patient>_flair``, ``_t1ce``,
    ``_t1``, ``_t2`` and ``_seg`` (2018 to 2021), or ``<patient>-t2f``, ``-t1c``, ``-t1n``, ``-t2w`` and ``-seg`` (2023
    and later), each ``.nii.gz`` or ``.nii``. Reading needs nibabel: ``pip install 'lightning-mm[volumes]'``.

    Splits are those of ``train.txt``, ``val.txt`` and ``test.txt`` in the root, names of patients one a line; without
    ``val.txt`` a part of the training patients is validation. Without any list all patients are divided: patient ``p``
    is test when ``sha256("brats/<p>")``, its first 8 bytes read as a fraction of 2^64, is below ``test_fraction``, and
    validation when it is in the next ``val_fraction``.

    Each volume is brought to zero mean and unit standard deviation over its brain (voxels that are not 0 in the file);
    the background is 0 before and after, and so is what is padded. Nothing is computed over several volumes.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder of the patients; ``$LIGHTNING_MM_DATA/brats`` when not given.
        size: X, Y and Z of whole samples: volumes (240, 240, 155) are padded or cropped about their centre, not
            resized; as stored when not given.
        crop: X, Y and Z of the random crops of training, another one in every epoch; whole samples when not given.
            Validation and test are whole samples. Crops need whole samples of at least their size.
        val_fraction: Part of the patients that is kept for validation if there is no list for it.
        test_fraction: Part of the patients that is kept for test if there are no lists.
        allow_missing: Whether a patient may lack files of some modalities; they are then None.
        cache: Whether volumes are kept in memory, as they are before a crop (17 bytes a voxel).

    Attributes:
        ids: Name of the folder of every patient.

    Shape:
        A sample is ``{"inputs": {"flair": Float[1, X, Y, Z], "t1ce": ..., "t1": ..., "t2": ...}, "target": Int64[X, Y,
        Z]}``; classes are 0 background, 1 necrotic core, 2 oedema, 3 enhancing tumour (4 in files before 2023). A crop
        has ``"corner": Int64[3]`` besides, its first voxel in the whole sample.

    Raises:
        DataNotFoundError: If the folder or a file is not there; all files are checked at once.
        LightningMMError: If an argument is out of range, or lists are incomplete; when read, if a file is damaged, the
            volumes of a patient differ in size, or labels are others than those above; also without nibabel.

    Reference:
        Menze et al.: The multimodal brain tumor image segmentation benchmark (BraTS), IEEE TMI 2015.
    """

    about: ClassVar[About] = BRATS
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"flair": 1, "t1ce": 1, "t1": 1, "t2": 1}
    lists: ClassVar[dict[str, str]] = {split: f"{split}.txt" for split in SPLITS}

    def __init__(
        self,
        split: str,
        root: str | None = None,
        size: tuple[int, int, int] | None = None,
        crop: tuple[int, int, int] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        allow_missing: bool = False,
        cache: bool = False,
    ) -> None:
        check_fraction("BraTS: test_fraction", test_fraction, below_one=True)
        if not val_fraction + test_fraction < 1:
            raise LightningMMError(
                f"BraTS: val_fraction and test_fraction leave nothing to train on: {val_fraction} and {test_fraction}"
            )
        self.whole, self.crop, self.test_fraction = _sides("size", size), _sides("crop", crop), test_fraction
        if self.whole and self.crop and any(a > b for a, b in zip(self.crop, self.whole)):
            raise LightningMMError(f"BraTS: crop {self.crop} is larger than size {self.whole}; make size larger")
        super().__init__(split, root, None, val_fraction, allow_missing, cache)

    def find_root(self, root: str | None) -> Path:
        return find_folder(self.name, self.about.name, root, [])

    def draw_sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A random crop in the train split, if crops are wanted; a whole sample otherwise."""
        return self.draw_some(index, rng, list(self.channels))

    def draw_some(self, index: int, rng: np.random.Generator, modalities: Sequence[str]) -> dict[str, Any]:
        """What :meth:`draw_sample` returns with some of its modalities; files of others are not opened."""
        sample = self.read_some(index, modalities)
        if self.crop is None or self.split != "train":
            return sample
        free = [had - wanted for had, wanted in zip(sample["target"].shape, self.crop)]
        if min(free) < 0:
            raise LightningMMError(
                f"BraTS: crop {self.crop} is larger than patient {self.ids[index]}, {tuple(sample['target'].shape)}; "
                "make crop smaller, or set size"
            )
        corner = [int(rng.integers(0, space + 1)) for space in free]
        part = (..., *(slice(start, start + side) for start, side in zip(corner, self.crop)))
        inputs = {name: None if one is None else one[part].clone() for name, one in sample["inputs"].items()}
        return {"inputs": inputs, "target": sample["target"][part].clone(), "corner": torch.tensor(corner)}

    def modality_files(self, name: str) -> dict[str, tuple[Path, ...]]:
        return {modality: (self._path(name, modality),) for modality in self.channels}

    def label_files(self, name: str) -> tuple[Path, ...]:
        return (self._path(name, "seg"),)

    def read_modality(self, modality: str, files: Sequence[Path]) -> Array:
        """Read a volume, its brain to zero mean and unit standard deviation, ``Float32[X, Y, Z, 1]``."""
        values = read_volume(files[0])
        brain = values != 0
        if brain.any():
            known = values[brain].astype(np.float64)
            values[brain] = (known - known.mean()) / (known.std() or 1.0)
        return values[..., None]

    def read_label(self, path: Path) -> NDArray[Any]:
        values = read_volume(path)
        check_labels(path, values, (0, 1, 2, *_ENHANCING), "0, 1, 2 and 4 (2023 and later: 3)")
        if all((values == label).any() for label in _ENHANCING):
            raise LightningMMError(
                f"{path} has the labels 3 and 4, of which one should be; copy it again from the source"
            )
        return np.minimum(values, 3).astype(np.uint8)

    def cut(self, values: Array) -> Array:
        """Pad or crop about the centre to the size of whole samples."""
        if self.whole is None:
            return values
        return fit_about_centre(values, self.whole if values.ndim == 3 else (*self.whole, values.shape[3]))

    def normalise(self, modality: str, values: Array) -> Tensor:
        """Turn ``[X, Y, Z, 1]`` into ``Float[1, X, Y, Z]``."""
        return torch.from_numpy(values[..., 0].copy())[None]

    @cached_property
    def _folders(self) -> Mapping[str, Path]:
        """Patient to its folder."""
        found: dict[str, Path] = {}
        for place in sorted(path for path in self.root.iterdir() if path.is_dir()):
            inner = [place] if _holds_patient(place) else sorted(path for path in place.iterdir() if path.is_dir())
            for folder in inner:
                if not _holds_patient(folder):
                    continue
                if folder.name in found:
                    raise LightningMMError(
                        f"BraTS: patient {folder.name} is there twice, {found[folder.name]} and {folder}; take one away"
                    )
                found[folder.name] = folder
        return found

    def _find_ids(self) -> tuple[str, ...]:
        listed = [split for split in SPLITS if (self.root / self.lists[split]).is_file()]
        if listed and not {"train", "test"} <= set(listed):
            raise DataNotFoundError(
                f"BraTS: {self.root} has a list for {' and '.join(listed)} only; write {self.lists['train']} and "
                f"{self.lists['test']}, or neither"
            )
        if listed:
            return super()._find_ids()
        if not self._folders:
            raise DataNotFoundError(
                f"BraTS: no patients in {self.root}, expected folders such as BraTS20_Training_001 with "
                "BraTS20_Training_001_flair.nii.gz, or HGG and LGG with such folders"
            )
        ids = tuple(name for name in sorted(self._folders) if self._side(name) == self.split)
        if not ids:
            raise DataNotFoundError(
                f"BraTS: none of the {len(self._folders)} patients in {self.root} falls into split {self.split!r}; "
                "write lists train.txt, val.txt and test.txt"
            )
        return ids

    def _side(self, name: str) -> str:
        place = fraction(self.about.name, name)
        if place < self.test_fraction:
            return "test"
        return "val" if place < self.test_fraction + self.val_fraction else "train"

    def _path(self, name: str, part: str) -> Path:
        folder = self._folders.get(name, self.root / name)
        places = [folder / f"{name}{ending}{suffix}" for ending in _ENDINGS[part] for suffix in _SUFFIXES]
        return next((path for path in places if path.is_file()), places[0])


def _sides(name: str, sides: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    if sides is None:
        return None
    if len(sides) != 3 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise LightningMMError(f"BraTS: {name} must be three positive numbers (x, y, z), got {sides}")
    return (sides[0], sides[1], sides[2])


def _holds_patient(folder: Path) -> bool:
    """Whether a folder holds any file of a patient of its name."""
    starts = tuple(folder.name + ending for endings in _ENDINGS.values() for ending in endings)
    return any(path.name.startswith(starts) and path.name.endswith(_SUFFIXES) for path in folder.iterdir())
