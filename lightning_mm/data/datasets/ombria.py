"""OMBRIA: flood mapping from radar (Sentinel-1) and optical (Sentinel-2) tiles, before and after the flood.

Shapes: H = W = ``size``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.pages.ombria import OMBRIA
from lightning_mm.data.readers.images import DAMAGE
from lightning_mm.errors import DataNotFoundError, IncompleteDataError, LightningMMError

SPLITS = ("train", "val", "test")
MODALITIES = ("s1_before", "s1_after", "s2_before", "s2_after")

# Mean and standard deviation of 8-bit values over all pixels of the 160 tiles of train_ids.txt at 256 px. One set for
# both dates of a sensor, so that a change between the dates stays a change.
_STATISTICS = {
    "s1": ([140.66], [50.30]),
    "s2": ([58.39, 68.44, 35.38], [34.68, 30.05, 26.42]),
}
_MODES = {"s1": "L", "s2": "RGB", "mask": "L"}
_MODE_WORDS = {"L": "8-bit gray (mode L)", "RGB": "8-bit RGB (mode RGB)"}


class Ombria(Dataset[dict[str, Any]]):
    """Flood segmentation with four modalities: ``s1_before``, ``s1_after``, ``s2_before``, ``s2_after``.

    Files: ``<root>/OmbriaS1/<train|test>/<BEFORE|AFTER|MASK>/S1_<before|after|mask>_<id>.png`` and the same with ``S2``
    in the place of ``S1``; the mask may lie under either. Which tiles there are is read from ``<root>/train_ids.txt``
    and ``test_ids.txt`` if they exist, else from the files.

    Validation tiles are split from the training tiles: tile ``id`` belongs to validation when
    ``sha256("ombria/<id>")``, its first 8 bytes read as a fraction of 2^64, is below ``val_fraction``. A tile thus
    keeps its side when tiles are added. Tiles of one flood event lie in all splits.

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
        DataNotFoundError: If the folder or a file is not there; all files are looked for at once.
        LightningMMError: If an argument is out of range; when read, if a file is damaged, has another form, or a mask
            holds other values than 0 and 255.

    Reference:
        Drakonakis et al.: OmbriaNet, IEEE JSTARS 2022; github.com/geodrak/OMBRIA.
    """

    about: ClassVar[About] = OMBRIA
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"s1_before": 1, "s1_after": 1, "s2_before": 3, "s2_after": 3}

    def __init__(
        self,
        split: str,
        root: str | None = None,
        size: int = 128,
        val_fraction: float = 0.2,
        allow_missing: bool = False,
        cache: bool = True,
    ) -> None:
        if split not in SPLITS:
            raise LightningMMError(f"Ombria: split must be one of {list(SPLITS)}, got {split!r}")
        if size < 1:
            raise LightningMMError(f"Ombria: size must be positive, got {size}")
        if not 0 <= val_fraction < 1:
            raise LightningMMError(f"Ombria: val_fraction must be at least 0 and below 1, got {val_fraction}")
        self.split, self.size, self.val_fraction = split, size, val_fraction
        self.allow_missing, self.cache = allow_missing, cache
        self.root = _find_root(root)
        self.folder = "test" if split == "test" else "train"  # on disk
        ids = _find_ids(self.root, self.folder)
        if split != "test":
            ids = [tile for tile in ids if (_fraction(tile) < val_fraction) == (split == "val")]
        self._cache: dict[int, dict[str, NDArray[np.uint8] | None]] = {}
        found, problems = {}, []
        for tile in ids:
            try:
                found[tile] = self._find_files(tile)
            except DataNotFoundError as error:
                problems.append(str(error))
        self.ids, self._files = tuple(found), list(found.values())
        if problems:
            raise IncompleteDataError.of(problems, self)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"Ombria: index {index} is outside of the {len(self)} tiles of split {self.split!r}")
        images = self._cache.get(index) or self._read(index)
        if self.cache:
            self._cache[index] = images
        target = images["mask"]
        assert target is not None  # _find_files sees to it
        inputs = {name: None if images[name] is None else _normalise(name, images[name]) for name in MODALITIES}
        return {"inputs": inputs, "target": torch.from_numpy(target.astype(np.int64))}

    def template(self, modality: str, sample: Mapping[str, Any]) -> torch.Tensor:
        """Of the height and width of the mask, to which all images are registered."""
        return torch.zeros(self.channels[modality], *sample["target"].shape)

    def explain_missing(self, index: int, modality: str) -> str:
        """Which file was not there, and the way out."""
        return self._lacks(self.ids[index], modality)

    def _lacks(self, tile: str, modality: str) -> str:
        return (
            f"Ombria: tile {tile} has no {modality}, sought at {_path(self.root, self.folder, modality, tile)}; "
            f"complete the data, take the tile off {self.folder}_ids.txt, or set allow_missing=true"
        )

    def _find_files(self, tile: str) -> dict[str, Path | None]:
        """The files of one tile; ``mask`` beside the modalities."""
        files: dict[str, Path | None] = {}
        for name in MODALITIES:
            path = _path(self.root, self.folder, name, tile)
            files[name] = path if path.is_file() else None
            if files[name] is None and not self.allow_missing:
                raise DataNotFoundError(self._lacks(tile, name))
        if all(path is None for path in files.values()):
            raise DataNotFoundError(f"Ombria: tile {tile} has no image under {self.root}; take it off the list of ids")
        masks = [_path(self.root, self.folder, name, tile) for name in ("s1_mask", "s2_mask")]
        files["mask"] = next((path for path in masks if path.is_file()), None)
        if files["mask"] is None:
            raise DataNotFoundError(f"Ombria: tile {tile} has no mask, sought at {masks[0]} and {masks[1]}")
        return files

    def _read(self, index: int) -> dict[str, NDArray[np.uint8] | None]:
        """Decoded and resized: ``UInt8[H, W, C]`` for each modality, ``UInt8[H, W]`` of 0 and 1 for the mask."""
        images: dict[str, NDArray[np.uint8] | None] = {}
        shapes: dict[str, tuple[int, int]] = {}
        for name, path in self._files[index].items():
            images[name] = None
            if path is not None:
                image = _decode(path, _MODES[name.split("_")[0]])
                shapes[path.name] = image.size
                images[name] = _resize_mask(image, self.size, path) if name == "mask" else _resize(image, self.size)
        if len(set(shapes.values())) != 1:
            raise LightningMMError(f"Ombria: the files of tile {self.ids[index]} differ in size: {shapes}")
        return images


def _find_root(root: str | None) -> Path:
    if root is None:
        base = os.environ.get("LIGHTNING_MM_DATA")
        if not base:
            raise DataNotFoundError(
                "Ombria: no data folder is set; set LIGHTNING_MM_DATA to the folder that holds ombria/, or root to the "
                "folder that holds OmbriaS1/ and OmbriaS2/"
            )
        root = str(Path(base) / "ombria")
    path = Path(root).expanduser()
    if not (path / "OmbriaS1").is_dir() and not (path / "OmbriaS2").is_dir():
        what = "holds neither OmbriaS1/ nor OmbriaS2/" if path.is_dir() else "does not exist"
        raise DataNotFoundError(
            f"Ombria: the folder {path} {what}; set LIGHTNING_MM_DATA to the folder that holds ombria/, or root to the "
            "folder that holds OmbriaS1/ and OmbriaS2/ (from github.com/geodrak/OMBRIA)"
        )
    return path


def _find_ids(root: Path, folder: str) -> list[str]:
    listed = root / f"{folder}_ids.txt"
    if listed.is_file():
        ids = listed.read_text().split()
        if len(set(ids)) != len(ids):
            raise LightningMMError(f"Ombria: {listed} names a tile twice; expected distinct ids, one a line")
    else:
        ids = [path.stem.rsplit("_", 1)[-1] for path in root.glob(f"OmbriaS[12]/{folder}/*/S[12]_*_*.png")]
    if not ids:
        raise DataNotFoundError(
            f"Ombria: no tiles for {folder!r}, sought {listed} and {root}/OmbriaS1/{folder}/*/*.png"
        )
    return sorted(set(ids))


def _path(root: Path, folder: str, name: str, tile: str) -> Path:
    sensor, date = name.upper().split("_")
    return root / f"Ombria{sensor}" / folder / date / f"{sensor}_{date.lower()}_{tile}.png"


def _fraction(tile: str) -> float:
    """A number in [0, 1) that depends on the name of the tile alone."""
    return int.from_bytes(hashlib.sha256(f"ombria/{tile}".encode()).digest()[:8], "big") / 2**64


def _decode(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            loaded = image.copy()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"Ombria: {path} is gone since the data set was opened") from error
    except PermissionError:  # an OSError, but no damage
        raise
    except DAMAGE as error:
        raise LightningMMError(f"Ombria: {path} is damaged ({error}); copy it again from the source") from error
    if loaded.mode != mode:
        raise LightningMMError(f"Ombria: {path} should be {_MODE_WORDS[mode]}, got mode {loaded.mode}")
    return loaded


def _resize(image: Image.Image, size: int) -> NDArray[np.uint8]:
    smaller = size <= min(image.size)
    resized = image.resize((size, size), Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(resized, dtype=np.uint8))


def _resize_mask(image: Image.Image, size: int, path: Path) -> NDArray[np.uint8]:
    values = np.unique(np.asarray(image))
    if not set(values.tolist()) <= {0, 255}:
        raise LightningMMError(
            f"Ombria: label out of range in {path}: a mask holds 0 (dry) and 255 (flood), got {values[:8].tolist()}"
        )
    return (np.asarray(image.resize((size, size), Image.Resampling.NEAREST)) > 127).astype(np.uint8)


def _normalise(name: str, image: NDArray[np.uint8] | None) -> torch.Tensor:
    """``UInt8[H, W, C] -> Float[C, H, W]`` of zero mean and unit standard deviation over the training tiles."""
    assert image is not None
    mean, std = _STATISTICS[name.split("_")[0]]
    scaled = (image - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
