"""MFNet: street scenes by day and night, in colour and thermal infrared.

Shapes: H x W = 480 x 640 pixels as published, or ``size``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.labelled_images import LabelledImages
from lightning_mm.data.pages.mfnet import MFNET
from lightning_mm.data.readers.images import read_image, read_labels
from lightning_mm.errors import DataNotFoundError, LightningMMError


class MFNet(LabelledImages):
    """Semantic segmentation with two modalities: ``rgb`` and ``thermal``.

    Both layouts are read, the first if both are there: ``<root>/rgb/NAME.jpg`` and ``ther/NAME.jpg``, or
    ``<root>/images/NAME.png`` with four channels (the fourth is thermal, so that no modality is ever missing alone);
    and ``labels/NAME.png``, ``train.txt``, ``test.txt`` and where it exists ``val.txt``. A name is the first word
    of a line; it ends in D (day) or N (night).

    Without ``val.txt``, name ``n`` of the training list belongs to validation when ``sha256("mfnet/<n>")``, its first
    8 bytes read as a fraction of 2^64, is below ``val_fraction``. The test list is never used for model selection.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder; ``$LIGHTNING_MM_DATA/mfnet`` when not given.
        size: Height and width after resizing, in pixels (area mean when smaller, bilinear when larger; nearest for
            labels); as stored when not given.
        val_fraction: Part of the training list that is kept for validation when there is no ``val.txt``.
        allow_missing: Whether a sample may lack the file of one modality, which is then None.
        cache: Whether decoded samples are kept in memory (5 bytes a pixel, 17 with ``size``), by each worker.

    Shape:
        A sample is ``{"inputs": {"rgb": Float[3, H, W], "thermal": Float[3, H, W]}, "target": Int64[H, W]}``: RGB
        normalised as ImageNet, thermal in [0, 1], repeated to three channels; the target holds positions in
        ``class_names``, of which all nine count. 255 would be ignored; the published labels do not use it.

    Raises:
        DataNotFoundError: If the folder or a file is not there; all files are checked at once.
        LightningMMError: If an argument is out of range; when read, if a file is damaged or has another form (thermal
            in colours, too), files differ in size, or a label is out of range.

    Reference:
        Ha et al.: MFNet, IROS 2017.
    """

    about: ClassVar[About] = MFNET
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"rgb": 3, "thermal": 3}
    lists: ClassVar[dict[str, str]] = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
    normalised = "rgb"

    def modality_files(self, name: str) -> dict[str, tuple[Path, ...]]:
        if self._stacked:
            return dict.fromkeys(self.channels, (self.root / "images" / f"{name}.png",))
        return {"rgb": (self.root / "rgb" / f"{name}.jpg",), "thermal": (self.root / "ther" / f"{name}.jpg",)}

    def label_files(self, name: str) -> tuple[Path, ...]:
        return (self.root / "labels" / f"{name}.png",)

    def read_modality(self, modality: str, files: Sequence[Path]) -> NDArray[Any]:
        if self._stacked:
            image = read_image(files[0], (4,))
            return image[..., :3] if modality == "rgb" else image[..., 3:]
        if modality == "rgb":
            return read_image(files[0], (3,))
        image = read_image(files[0], (1, 3))
        if (image != image[..., :1]).any():
            raise LightningMMError(
                f"{files[0]} is a colour image, expected one channel of thermal values, or three that are equal; "
                "store the values themselves, not a colour map of them (and check that rgb/ and ther/ are not swapped)"
            )
        # A gray JPEG may have been saved with three equal channels.
        return image[..., :1]

    def read_label(self, path: Path) -> NDArray[Any]:
        return read_labels(path, len(self.class_names))

    @cached_property
    def _stacked(self) -> bool:
        """Whether ``images/`` holds all four channels."""
        if any((self.root / folder).is_dir() for folder in ("rgb", "ther")):
            return False
        if (self.root / "images").is_dir():
            return True
        raise DataNotFoundError(
            f"MFNet: the folder {self.root} holds neither rgb/ and ther/ nor images/; see `lightning-mm data mfnet`"
        )
