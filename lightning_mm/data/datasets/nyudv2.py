"""NYU Depth v2: indoor scenes in colour and depth.

Shapes: H x W = 480 x 640 pixels as published, or ``size``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.labelled_images import LabelledImages
from lightning_mm.data.pages.nyudv2 import NYUDV2
from lightning_mm.data.readers.images import VOID, read_image, read_labels


class NYUDv2(LabelledImages):
    """Semantic segmentation with two modalities: ``rgb`` and ``hha``, an image made of depth.

    HHA encodes depth as horizontal disparity, height above ground and angle with gravity. Files:
    ``<root>/RGB/NAME.jpg``, ``HHA/NAME.jpg``, ``Label/NAME.png``, ``train.txt`` and ``test.txt``; a name is the
    first word of a line. Labels on disk are 1 to 40, and 0 or 255 for no class.

    Name ``n`` of the training list belongs to validation when ``sha256("nyudv2/<n>")``, its first 8 bytes read as a
    fraction of 2^64, is below ``val_fraction``: the set has no list for it, and the test list is never used for
    model selection.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder; ``$LIGHTNING_MM_DATA/nyudv2`` when not given.
        size: Height and width after resizing, in pixels (area mean when smaller, bilinear when larger; nearest for
            labels); as stored when not given.
        val_fraction: Part of the training list that is kept for validation.
        allow_missing: Whether a sample may lack the file of one modality, which is then None.
        cache: Whether decoded samples are kept in memory (7 bytes a pixel, 25 with ``size``), by each worker.

    Shape:
        A sample is ``{"inputs": {"rgb": Float[3, H, W], "hha": Float[3, H, W]}, "target": Int64[H, W]}``: RGB
        normalised as ImageNet, HHA in [0, 1]; the target holds positions in ``class_names`` and 255.

    Raises:
        DataNotFoundError: If the folder or a file is not there; all files are checked at once.
        LightningMMError: If an argument is out of range; when read, if a file is damaged or has another form, files
            differ in size, or a label is out of range.

    Reference:
        Silberman et al.: Indoor segmentation and support inference from RGBD images, ECCV 2012; 40 classes: Gupta et
        al., CVPR 2013; HHA: Gupta et al., ECCV 2014, arXiv 1407.5736.
    """

    about: ClassVar[About] = NYUDV2
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"rgb": 3, "hha": 3}
    lists: ClassVar[dict[str, str]] = {"train": "train.txt", "test": "test.txt"}
    normalised = "rgb"

    def modality_files(self, name: str) -> dict[str, tuple[Path, ...]]:
        return {"rgb": (self.root / "RGB" / f"{name}.jpg",), "hha": (self.root / "HHA" / f"{name}.jpg",)}

    def label_files(self, name: str) -> tuple[Path, ...]:
        return (self.root / "Label" / f"{name}.png",)

    def read_modality(self, modality: str, files: Sequence[Path]) -> NDArray[Any]:
        return read_image(files[0], (3,))

    def read_label(self, path: Path) -> NDArray[Any]:
        return read_labels(path, len(self.class_names), first=1, void=(0, VOID))
