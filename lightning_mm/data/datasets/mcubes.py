"""MCubeS: materials in street scenes, seen in colour, polarisation and near infrared.

Shapes: H x W = 1024 x 1032 pixels of the published set, or ``eval_crop``, or ``size``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.labelled_images import LabelledImages
from lightning_mm.data.pages.mcubes import MCUBES
from lightning_mm.data.readers.arrays import read_array
from lightning_mm.data.readers.images import check_size, read_image, read_labels
from lightning_mm.errors import LightningMMError

LEFT = 192
"""Columns at the left that are dropped, as in all public recipes."""


class MCubeS(LabelledImages):
    """Segmentation of materials with four modalities: ``image``, ``aolp``, ``dolp`` and ``nir``.

    Angle (AoLP) and degree (DoLP) of linear polarisation, and near infrared. Files: ``<root>/polL_color/NAME.png``,
    ``polL_aolp_sin/NAME.npy`` and ``polL_aolp_cos/NAME.npy``, ``polL_dolp/NAME.npy``, ``NIR_warped/NAME.png``,
    ``GT/NAME.png`` and ``list_folder/{train,val,test}.txt``; a name is the first word of a line. Images
    have 8 or 16 bits. Files of the published set are 1024 x 1224; the left 192 columns are dropped.

    Images were written with OpenCV, whose arrays are blue, green, red; the files hold red first, as every PNG, and
    that is the order here, as in the public recipe, which reverses OpenCV's arrays.

    Args:
        split: ``train``, ``val`` or ``test``, as listed.
        root: The folder; ``$LIGHTNING_MM_DATA/mcubes`` when not given.
        size: Height and width after resizing, in pixels (area mean when smaller, bilinear when larger; nearest for
            labels); as stored when not given.
        eval_crop: Height and width of the centre that ``val`` and ``test`` are cropped to before resizing; published
            figures are on ``[1024, 1024]``. Not cropped when not given.
        val_fraction: Part of the training list that is kept for validation if there is no ``val.txt``.
        allow_missing: Whether a sample may lack the files of some modalities, which are then None.
        cache: Whether decoded samples are kept in memory (21 to 25 bytes a pixel, 33 with ``size``), by each worker.

    Shape:
        A sample is ``{"inputs": {"image": X, "aolp": X, "dolp": X, "nir": X}, "target": Int64[H, W]}`` with X =
        ``Float[3, H, W]``: colour normalised as ImageNet; AoLP as (sine, cosine, sine) and DoLP, repeated to three
        channels, as stored; near infrared in [0, 1], repeated to three channels. The target holds positions in
        ``class_names`` and 255.

    Raises:
        DataNotFoundError: If the folder or a file is not there; all files are checked at once.
        LightningMMError: If an argument is out of range; when read, if a file is damaged, has another form or numbers
            that are not finite, files differ in size or are smaller than the crop, or a label is out of range.

    Reference:
        Liang et al.: Multimodal Material Segmentation, CVPR 2022.
    """

    about: ClassVar[About] = MCUBES
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"image": 3, "aolp": 3, "dolp": 3, "nir": 3}
    lists: ClassVar[dict[str, str]] = {split: f"list_folder/{split}.txt" for split in ("train", "val", "test")}
    normalised = "image"

    def __init__(
        self,
        split: str,
        root: str | None = None,
        size: tuple[int, int] | None = None,
        eval_crop: tuple[int, int] | None = None,
        val_fraction: float = 0.1,
        allow_missing: bool = False,
        cache: bool = False,
    ) -> None:
        self.eval_crop = None if eval_crop is None else check_size("MCubeS: eval_crop", eval_crop)
        super().__init__(split, root, size, val_fraction, allow_missing, cache)

    def modality_files(self, name: str) -> dict[str, tuple[Path, ...]]:
        return {
            "image": (self.root / "polL_color" / f"{name}.png",),
            "aolp": (self.root / "polL_aolp_sin" / f"{name}.npy", self.root / "polL_aolp_cos" / f"{name}.npy"),
            "dolp": (self.root / "polL_dolp" / f"{name}.npy",),
            "nir": (self.root / "NIR_warped" / f"{name}.png",),
        }

    def label_files(self, name: str) -> tuple[Path, ...]:
        return (self.root / "GT" / f"{name}.png",)

    def read_modality(self, modality: str, files: Sequence[Path]) -> NDArray[Any]:
        if modality == "image":
            return read_image(files[0], (3,))
        if modality == "nir":
            return read_image(files[0], (1,))
        layers = [read_array(path) for path in files]
        if len({layer.shape for layer in layers}) != 1:
            shapes = {str(path): layer.shape for path, layer in zip(files, layers)}
            raise LightningMMError(f"MCubeS: sine and cosine of one angle differ in size (height, width): {shapes}")
        return np.stack([*layers, layers[0]] if modality == "aolp" else layers, axis=-1)

    def read_label(self, path: Path) -> NDArray[Any]:
        return read_labels(path, len(self.class_names))

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        values = values[:, LEFT:]
        if self.eval_crop is None or self.split == "train":
            return values
        height, width = self.eval_crop
        top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
        return values[top : top + height, left : left + width] if min(top, left) >= 0 else values[:0]
