"""Lesions of multiple sclerosis in four magnetic resonance contrasts of one brain, as axial slices.

Shapes: H = W = ``size``; H runs along x of the file, W along y.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import SPLITS, check_index
from lightning_mm.data.pages.ms_lesions import MS_LESIONS
from lightning_mm.data.readers.arrays import (
    BOOLEANS,
    INTEGERS,
    NUMBERS,
    STRINGS,
    check_labels,
    fit_about_centre,
    read_npz,
)
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.errors import LightningMMError, check_choice, check_whole

Array = NDArray[Any]


_ARRAYS = {"image": (NUMBERS, 4), "mask": (BOOLEANS + NUMBERS, 3), "z": (INTEGERS, 1), "modalities": (STRINGS, 1)}
_STORED = {"flair": "FLAIR", "t1": "T1", "t1_post": "T1POST", "t2": "T2"}


class MsLesions(Dataset[dict[str, Any]]):
    """Lesion segmentation with four modalities: ``flair``, ``t1``, ``t1_post`` (after contrast agent), ``t2``.

    Files: ``<root>/patient<07|19|26>_lesion_slices.npz`` with ``image`` ``[slice, 4, x, y]``, ``mask`` ``[slice, x,
    y]`` of 0 and 1, ``z`` (position of each slice in the volume) and ``modalities`` (names of the four). Only slices
    with lesion are there, so that figures say nothing about false alarms in slices without.

    ========  ======  =============
    patient   slices  lesion voxels
    ========  ======  =============
    07            74          1 300
    19            87         49 769
    26            54          8 227
    ========  ======  =============

    By default patient 19 trains, 07 validates and 26 tests: no patient is in two splits. Of three patients one is a
    small test, so give every patient its turn.

    ``val_patient=None`` trains on both patients that are not tested: of each, the highest fifth of the slices is
    validation, the ``gap`` slices below it are left out, and the rest is train (with patient 26 as test: 122 slices
    with 48 963 lesion voxels train, 33 with 1 439 validate). Nothing of the test patient leaks. From train to
    validation leak the patient's anatomy, scanner and statistics, and lesions that reach through the gap: this
    validation is optimistic and good for stopping and for comparing settings, not to be reported. The highest slices
    also hold few lesions.

    Every modality of every patient is brought to zero mean and unit standard deviation over its brain voxels (those
    that are not 0 in the file, all slices of that patient; labels are not used), test patients too. The background is
    0 before and after, and so is what is padded.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder of the files; ``$LIGHTNING_MM_DATA/ms_lesions`` when not given.
        test_patient: ``07``, ``19`` or ``26``.
        val_patient: Another one, or None to split the validation off from the training patients.
        size: Height and width in pixels: slices (127 to 164 pixels) are padded or cropped about their centre, not
            resized. 128 cuts off 4 to 8 % of the brain and one lesion voxel (of patient 19); 160 almost nothing.
        gap: Slices left out between train and validation of one patient; without effect if ``val_patient`` is given.

    Shape:
        A sample is ``{"inputs": {"flair": Float[1, H, W], "t1": Float[1, H, W], "t1_post": Float[1, H, W],
        "t2": Float[1, H, W]}, "target": Int64[H, W]}``; the target is 1 where there is lesion.

    Raises:
        DataNotFoundError: If the folder or one of the three files is not there.
        LightningMMError: If an argument is out of range, test and validation patient are the same, or a file is damaged
            or does not hold what is said above.

    Reference:
        Lesjak et al.: A novel public MR image dataset of multiple sclerosis patients, Neuroinformatics 2017 (CC BY).
    """

    about: ClassVar[About] = MS_LESIONS
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"flair": 1, "t1": 1, "t1_post": 1, "t2": 1}
    patients = ("07", "19", "26")

    def __init__(
        self,
        split: str,
        root: str | None = None,
        test_patient: str = "26",
        val_patient: str | None = "07",
        size: int = 128,
        gap: int = 3,
    ) -> None:
        check_choice("MsLesions: split", split, SPLITS)
        check_choice("MsLesions: test_patient", test_patient, self.patients)
        check_choice("MsLesions: val_patient", val_patient, [*self.patients, None])
        if test_patient == val_patient:
            raise LightningMMError(
                f"MsLesions: test_patient and val_patient are both {test_patient!r}; a patient belongs to one split"
            )
        check_whole("MsLesions: size", size, 1)
        check_whole("MsLesions: gap", gap, 0)
        self.split, self.size, self.gap = split, size, gap
        self.test_patient, self.val_patient = test_patient, val_patient
        self.root = find_folder("MsLesions", "ms_lesions", root, [_file(patient) for patient in self.patients])
        self._load({})

    def hide(self, observed: Mapping[str, NDArray[np.bool_]]) -> None:
        """Forget the values of slices that lack a modality: they become 0 and no longer count in mean and deviation.

        Args:
            observed: Modality to ``Bool[N]``, the samples that have it; modalities that are not named stay.
        """
        self._load(observed)

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        check_index("MsLesions", index, len(self), self.split)
        image = torch.tensor(self._images[index])
        inputs = {name: image[k : k + 1].clone() for k, name in enumerate(self.channels)}
        return {"inputs": inputs, "target": torch.tensor(self._masks[index], dtype=torch.int64)}

    def _load(self, observed: Mapping[str, NDArray[np.bool_]]) -> None:
        images, masks = [], []
        slices: list[tuple[str, int]] = []
        for patient in self._patients_of_split():
            arrays = _read(self.root / _file(patient))
            rows = self._rows(arrays["z"])
            exists = np.ones(arrays["image"].shape[:2], dtype=bool)
            for column, name in enumerate(self.channels):
                if name in observed:
                    exists[rows, column] = observed[name][len(slices) : len(slices) + len(rows)]
            images.append(fit_about_centre(_normalise(arrays["image"], exists)[rows], (self.size, self.size)))
            masks.append(fit_about_centre(arrays["mask"][rows], (self.size, self.size)))
            slices += [(patient, int(z)) for z in arrays["z"][rows]]
        self._images, self._masks = np.concatenate(images), np.concatenate(masks)
        self.slices: tuple[tuple[str, int], ...] = tuple(slices)
        """``(patient, z)`` of every sample."""
        self.ids = tuple(f"{patient}/{z}" for patient, z in slices)
        """``<patient>/<z>`` of every sample."""
        self.fields = {"patient": [patient for patient, _ in slices]}
        """What policies of missingness may depend on: one value per sample."""

    def _patients_of_split(self) -> list[str]:
        if self.split == "test":
            return [self.test_patient]
        if self.split == "val" and self.val_patient is not None:
            return [self.val_patient]
        return [patient for patient in self.patients if patient not in (self.test_patient, self.val_patient)]

    def _rows(self, z: Array) -> Array:
        """Select the slices of this split; all of a patient unless validation is split off from it."""
        if self.split == "test" or self.val_patient is not None:
            return np.arange(len(z))
        first = np.sort(z)[len(z) - math.ceil(len(z) / 5)]  # lowest slice of the highest fifth
        return np.flatnonzero(z >= first if self.split == "val" else z < first - self.gap)


def _file(patient: str) -> str:
    return f"patient{patient}_lesion_slices.npz"


def _read(path: Path) -> dict[str, Array]:
    """Read ``image`` in the order of ``channels``, ``mask`` and ``z``, and check that they fit together."""
    arrays = read_npz(path, _ARRAYS)
    image, mask, z = arrays["image"], arrays["mask"], arrays["z"]
    names = arrays["modalities"].tolist()
    if sorted(names) != sorted(_STORED.values()):
        raise LightningMMError(f"MsLesions: {path} should hold {list(_STORED.values())}, got {names}")
    expected = (len(z), len(names))
    if image.shape[:2] != expected or mask.shape != (len(z), *image.shape[2:]) or len(z) == 0:
        raise LightningMMError(
            f"MsLesions: {path} should hold image [slice, {len(names)}, x, y], mask [slice, x, y] and z [slice] of at "
            f"least one slice, got {image.shape}, {mask.shape} and {z.shape}"
        )
    if not np.isfinite(image).all():
        raise LightningMMError(f"MsLesions: {path}: image holds values that are not finite; copy it again")
    check_labels(path, mask, (0, 1), "0 (background) and 1 (lesion)")
    return {"image": image[:, [names.index(name) for name in _STORED.values()]], "mask": mask, "z": z}


def _normalise(image: Array, exists: Array) -> Array:
    """``[slice, 4, x, y]`` of one patient: brain (not 0) to zero mean and unit standard deviation, the rest stays 0.

    Of slices that do not exist, ``Bool[slice, 4]``, all becomes 0.
    """
    normalised = np.zeros(image.shape, dtype=np.float32)
    for k in range(image.shape[1]):
        brain = (image[:, k] != 0) & exists[:, k, None, None]
        values = image[:, k][brain].astype(np.float64)
        if values.size:
            normalised[:, k][brain] = (values - values.mean()) / (values.std() or 1.0)
    return normalised
