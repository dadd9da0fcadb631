"""What sets of registered pictures with a label image have in common: lists of names, splits, checks, the cache.

Shapes: H x W pixels, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.data.readers.images import resize_image, resize_labels, to_tensor
from lightning_mm.errors import DataNotFoundError, IncompleteDataError, LightningMMError

Array = NDArray[Any]

SPLITS = ("train", "val", "test")
_LONGEST_NAME = 240  # bytes; file systems end at 255, the ending of the file among them


class LabelledImages(Dataset[dict[str, Any]]):
    """Base of data sets that list names, with a file or more per modality and a label image for each.

    A data set says where the files of a name lie (:meth:`modality_files`, :meth:`label_file`) and how they are read
    (:meth:`read_modality`, :meth:`read_label`).

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder; ``$LIGHTNING_MM_DATA/<about.name>`` when not given.
        lists: Split to its list under ``root``; without a file for ``val`` it is split from ``train``.
        size: Height and width after resizing, in pixels; as stored when not given.
        val_fraction: Part of the training list that is kept for validation when there is no list for it.
        allow_missing: Whether a sample may lack the files of some modalities; they are then None.
        cache: Whether decoded samples are kept in memory.
    """

    about: ClassVar[About]
    class_names: ClassVar[tuple[str, ...]]
    channels: ClassVar[dict[str, int]]
    normalised: ClassVar[str]
    """The modality that is brought to zero mean and unit standard deviation, as ImageNet."""

    def __init__(
        self,
        split: str,
        root: str | None,
        lists: dict[str, str],
        size: tuple[int, int] | None,
        val_fraction: float,
        allow_missing: bool,
        cache: bool,
    ) -> None:
        self.name = type(self).__name__
        if split not in SPLITS:
            raise LightningMMError(f"{self.name}: split must be one of {list(SPLITS)}, got {split!r}")
        self.size = check_size(self.name, "size", size)
        if not 0 <= val_fraction < 1:
            raise LightningMMError(f"{self.name}: val_fraction must be at least 0 and below 1, got {val_fraction}")
        self.split, self.val_fraction, self.allow_missing, self.cache = split, val_fraction, allow_missing, cache
        self.root = find_folder(self.name, self.about.name, root, [lists["train"], lists["test"]])
        self._cache: dict[int, dict[str, Array | None]] = {}
        found, problems = {}, []
        for name in self._find_ids(lists):
            try:
                found[name] = self._find_files(name)
            except DataNotFoundError as error:
                problems.append(str(error))
        self.ids, self._files = tuple(found), list(found.values())
        if problems:
            raise IncompleteDataError.of(problems, self)

    def modality_files(self, name: str) -> dict[str, tuple[Path, ...]]:
        """Modality to the files that it needs, for one name of the list."""
        raise NotImplementedError

    def label_file(self, name: str) -> Path:
        """The label image of one name of the list."""
        raise NotImplementedError

    def read_modality(self, modality: str, files: Sequence[Path]) -> Array:
        """Decode the files of one modality to ``[H, W, C]``, C = 1 or 3, in 8 bits, 16 bits or float32."""
        raise NotImplementedError

    def read_label(self, path: Path) -> NDArray[Any]:
        """Decode a label image to ``UInt8[H, W]``."""
        raise NotImplementedError

    def cut(self, values: Array) -> Array:
        """Take the part of a decoded ``[H, W, ...]`` that is used; all of it unless overridden."""
        return values

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} is outside of the {len(self)} samples of {self.split!r}")
        read = self._cache.get(index) or self._read(index)
        if self.cache:
            self._cache[index] = read
        inputs: dict[str, Tensor | None] = {}
        for modality in self.channels:
            values = read[modality]
            inputs[modality] = None if values is None else to_tensor(values, modality == self.normalised)
        target = read["target"]
        assert target is not None  # _find_files sees to it
        return {"inputs": inputs, "target": torch.from_numpy(target.astype(np.int64))}

    def template(self, modality: str, sample: Mapping[str, Any]) -> Tensor:
        """Of the shape of the pictures that the sample has: pictures are registered, and all have three channels."""
        return torch.zeros_like(next(value for value in sample["inputs"].values() if value is not None))

    def explain_missing(self, index: int, modality: str) -> str:
        """Which file was not there, and the way out."""
        name = self.ids[index]
        return self._lacks(name, modality, self.modality_files(name)[modality])

    def _lacks(self, name: str, modality: str, files: Sequence[Path]) -> str:
        place = next((path for path in files if not path.is_file()), files[0])
        return (
            f"{self.name}: sample {name} has no {modality}, sought at {place}; complete the data, take the name off "
            "its list, or set allow_missing=true"
        )

    def _find_ids(self, lists: dict[str, str]) -> tuple[str, ...]:
        own = self.root / lists.get(self.split, "")
        if self.split == "test" or ("val" in lists and (self.root / lists["val"]).is_file()):
            return read_list(self.name, own)
        names = read_list(self.name, self.root / lists["train"])
        held_out = self.split == "val"
        return tuple(one for one in names if (fraction(self.about.name, one) < self.val_fraction) == held_out)

    def _find_files(self, name: str) -> dict[str, tuple[Path, ...]]:
        """The files of one sample; ``target`` beside the modalities that it has."""
        label = self.label_file(name)
        if not label.is_file():
            raise DataNotFoundError(f"{self.name}: sample {name} has no label image, sought at {label}")
        found: dict[str, tuple[Path, ...]] = {}
        sought = self.modality_files(name)
        for modality, files in sought.items():
            if all(path.is_file() for path in files):
                found[modality] = files
            elif not self.allow_missing:
                raise DataNotFoundError(self._lacks(name, modality, files))
        if not found:
            places = ", ".join(str(path) for files in sought.values() for path in files)
            raise DataNotFoundError(f"{self.name}: sample {name} has no modality at all, sought at {places}")
        return {**found, "target": (label,)}

    def _read(self, index: int) -> dict[str, Array | None]:
        files = self._files[index]
        read: dict[str, Array | None] = {
            name: self.read_modality(name, files[name]) if name in files else None for name in self.channels
        }
        read["target"] = self.read_label(files["target"][0])
        sizes = {str(files[name][0]): one.shape[:2] for name, one in read.items() if one is not None}
        if len(set(sizes.values())) != 1:
            raise LightningMMError(
                f"{self.name}: the files of sample {self.ids[index]} differ in size (height, width): {sizes}"
            )
        for name, values in read.items():
            if values is None:
                continue
            # A copy: a view would keep in memory what was cut off.
            part = np.ascontiguousarray(self.cut(values))
            if part.size == 0:
                raise LightningMMError(
                    f"{self.name}: {files[name][0]} is smaller than what is cut from it, (height, width) "
                    f"{values.shape[:2]}"
                )
            if self.size is not None:
                part = resize_labels(part, self.size) if name == "target" else resize_image(part, self.size)
            read[name] = part
        return read


def read_list(data_set: str, path: Path) -> tuple[str, ...]:
    """The names in a list: what stands before the first blank of every line that is not empty.

    Raises:
        DataNotFoundError: If the list is not there.
        LightningMMError: If it is no text, names nothing, a name twice, or one that no file can have.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{data_set}: the list {path} is not there; copy it from the source") from error
    except UnicodeDecodeError as error:
        raise LightningMMError(
            f"{data_set}: {path} is no text file ({error}); copy it again from the source"
        ) from error
    names = tuple(line.split()[0] for line in lines if line.strip())
    if not names:
        raise LightningMMError(f"{data_set}: {path} is empty; expected one name a line")
    longest = max(names, key=len)
    if len(longest.encode()) > _LONGEST_NAME:
        raise LightningMMError(
            f"{data_set}: {path} is no list of names: one of them has {len(longest)} letters and begins with "
            f"{longest[:20]!r}; expected one name a line"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LightningMMError(f"{data_set}: {path} names {twice!r} twice; expected distinct names, one a line")
    return names


def fraction(data_set: str, name: str) -> float:
    """A number in [0, 1) that depends on the two names alone, so that a sample keeps its side when others are added.

    Example:
        >>> 0 <= fraction("mfnet", "00001D") < 1
        True
    """
    return int.from_bytes(hashlib.sha256(f"{data_set}/{name}".encode()).digest()[:8], "big") / 2**64


def check_size(data_set: str, name: str, size: Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of an argument, positive both.

    Raises:
        LightningMMError: If they are not.
    """
    if size is None:
        return None
    if len(size) != 2 or min(size) < 1:
        raise LightningMMError(f"{data_set}: {name} must be a positive height and width, got {tuple(size)}")
    return size[0], size[1]
