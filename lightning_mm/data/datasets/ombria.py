"""OMBRIA: flood mapping from radar (Sentinel-1) and optical (Sentinel-2) tiles, before and after the flood.

Shapes: H = W = ``size``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.labelled_images import LabelledImages
from lightning_mm.data.pages.ombria import OMBRIA
from lightning_mm.data.readers.arrays import check_labels
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.data.readers.images import decode, resize_image
from lightning_mm.data.readers.lists import read_list
from lightning_mm.errors import DataNotFoundError, check_whole

# Mean and standard deviation of 8-bit values over all pixels of the 160 tiles of train_ids.txt at 256 px. One set for
# both dates of a sensor, so that a change between the dates stays a change.
_STATISTICS = {
    "s1": ([140.66], [50.30]),
    "s2": ([58.39, 68.44, 35.38], [34.68, 30.05, 26.42]),
}
_GRAY = (("L",), "8-bit gray (mode L)")
_FORMS = {"s1": _GRAY, "s2": (("RGB",), "8-bit RGB (mode RGB)")}


class Ombria(LabelledImages):
    """Flood segmentation with four modalities: ``s1_before``, ``s1_after``, ``s2_before``, ``s2_after``.

    Files: ``<root>/OmbriaS1/<train|test>/<BEFORE|AFTER|MASK>/S1_<before|after|mask>_<id>.png`` and the same with ``S2``
    instead of ``S1``; the mask may be under either. Which tiles there are is read from ``<root>/train_ids.txt`` and
    ``test_ids.txt`` if they exist, else from the files.

    Validation tiles are split from the training tiles: tile ``id`` belongs to validation when
    ``sha256("ombria/<id>")``, its first 8 bytes read as a fraction of 2^64, is below ``val_fraction``. A tile thus
    keeps its side when tiles are added. Tiles of one flood event are in all splits.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder that holds ``OmbriaS1`` and ``OmbriaS2``; ``$LIGHTNING_MM_DATA/ombria`` when not given.
        size: Height and width in pixels after resizing (area mean when smaller, bilinear when larger; nearest for
            masks).
        val_fraction: Part of the training tiles that is kept for validation.
        allow_missing: Whether a tile may lack files of some modalities; they are then None.
        cache: Whether decoded tiles are kept in memory (9 bytes a pixel).

    Shape:
        A sample is ``{"inputs": {"s1_before": Float[1, H, W], "s1_after": Float[1, H, W], "s2_before": Float[3, H, W],
        "s2_after": Float[3, H, W]}, "target": Int64[H, W]}``; the target is 1 where there is flood.

    Raises:
        DataNotFoundError: If the folder or a file is not there; all files are checked at once.
        LightningMMError: If an argument is out of range; when read, if a file is damaged, has another form, or a mask
            holds other values than 0 and 255.

    Reference:
        Drakonakis et al.: OmbriaNet, IEEE JSTARS 2022; github.com/geodrak/OMBRIA.
    """

    about: ClassVar[About] = OMBRIA
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"s1_before": 1, "s1_after": 1, "s2_before": 3, "s2_after": 3}
    lists: ClassVar[dict[str, str]] = {"train": "train_ids.txt", "test": "test_ids.txt"}

    def __init__(
        self,
        split: str,
        root: str | None = None,
        size: int = 128,
        val_fraction: float = 0.2,
        allow_missing: bool = False,
        cache: bool = True,
    ) -> None:
        check_whole("Ombria: size", size, 1)
        super().__init__(split, root, (size, size), val_fraction, allow_missing, cache)

    def find_root(self, root: str | None) -> Path:
        return find_folder(self.name, self.about.name, root, ["OmbriaS1/", "OmbriaS2/"], all_of=False)

    def names_of(self, split: str) -> tuple[str, ...]:
        listed = self.root / self.lists[split]
        if listed.is_file():
            return tuple(sorted(read_list(listed, per_line=None)))
        names = {path.stem.rsplit("_", 1)[-1] for path in self.root.glob(f"OmbriaS[12]/{split}/*/S[12]_*_*.png")}
        if not names:
            raise DataNotFoundError(
                f"Ombria: no tiles for {split!r}, expected {listed} or files {self.root}/OmbriaS1/{split}/*/*.png"
            )
        return tuple(sorted(names))

    def modality_files(self, name: str) -> dict[str, tuple[Path, ...]]:
        return {modality: (self._path(modality, name),) for modality in self.channels}

    def label_files(self, name: str) -> tuple[Path, ...]:
        return self._path("s1_mask", name), self._path("s2_mask", name)

    def read_modality(self, modality: str, files: Sequence[Path]) -> NDArray[Any]:
        return np.atleast_3d(np.asarray(decode(files[0], *_FORMS[modality[:2]])))

    def read_label(self, path: Path) -> NDArray[Any]:
        values = np.asarray(decode(path, *_GRAY))
        check_labels(path, values, (0, 255), "0 (dry) and 255 (flood)")
        return (values > 127).astype(np.uint8)

    def resize(self, values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        """Resize in 8 bits."""
        return resize_image(values, size)

    def normalise(self, modality: str, values: NDArray[Any]) -> torch.Tensor:
        """Bring a sensor to zero mean and unit standard deviation over the training tiles."""
        mean, std = (np.array(one, dtype=np.float32) for one in _STATISTICS[modality[:2]])
        return torch.from_numpy(np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1)))

    def _path(self, name: str, tile: str) -> Path:
        sensor, date = name.upper().split("_")
        folder = "test" if self.split == "test" else "train"  # on disk
        return self.root / f"Ombria{sensor}" / folder / date / f"{sensor}_{date.lower()}_{tile}.png"
