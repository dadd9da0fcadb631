"""What data sets of registered images with a label image have in common: lists of names, splits, checks, the cache.

Shapes: H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import SPLITS, check_index, fraction
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.data.readers.images import check_size, resize_image, resize_labels, scale, to_tensor
from lightning_mm.data.readers.lists import read_list
from lightning_mm.errors import DataNotFoundError, IncompleteDataError, LightningMMError, check_choice, check_fraction

Array = NDArray[Any]


class LabelledImages(Dataset[dict[str, Any]]):
    """Base of data sets that list names, with one or more files per modality and a label image for each.

    A data set says where the files of a name are (:meth:`modality_files`, :meth:`label_files`) and how they are read
    (:meth:`read_modality`, :meth:`read_label`).

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder; ``$LIGHTNING_MM_DATA/<about.name>`` when not given.
        size: Height and width after resizing, in pixels; as stored when not given.
        val_fraction: Part of the training list that is kept for validation if the data set has no list for it.
        allow_missing: Whether a sample may lack the files of some modalities; they are then None.
        cache: Whether decoded samples are kept in memory.
    """

    about: ClassVar[About]
    class_names: ClassVar[tuple[str, ...]]
    channels: ClassVar[dict[str, int]]
    lists: ClassVar[dict[str, str]]
    """Split to its list under the root; without a file for ``val`` it is split from ``train``."""
    normalised: ClassVar[str]
    """The modality that is brought to zero mean and unit standard deviation, as ImageNet."""

    def __init__(
        self,
        split: str,
        root: str | None = None,
        size: tuple[int, int] | None = None,
        val_fraction: float = 0.1,
        allow_missing: bool = False,
        cache: bool = False,
    ) -> None:
        self.name = type(self).__name__
        check_choice(f"{self.name}: split", split, SPLITS)
        self.size = None if size is None else check_size(f"{self.name}: size", size)
        check_fraction(f"{self.name}: val_fraction", val_fraction, below_one=True)
        self.split, self.val_fraction, self.allow_missing, self.cache = split, val_fraction, allow_missing, cache
        self.root = self.find_root(root)
        self._cache: dict[tuple[int, tuple[str, ...]], dict[str, Array | None]] = {}
        found, problems = {}, []
        for name in self._find_ids():
            try:
                found[name] = self._find_files(name)
            except DataNotFoundError as error:
                problems.append(str(error))
        self.ids, self._files = tuple(found), list(found.values())
        if problems:
            raise IncompleteDataError.of(problems, self)

    def find_root(self, root: str | None) -> Path:
        """Find the folder that holds the lists for train and test."""
        return find_folder(self.name, self.about.name, root, [self.lists["train"], self.lists["test"]])

    def names_of(self, split: str) -> tuple[str, ...]:
        """Read the list of a split."""
        return read_list(self.root / self.lists[split])

    def modality_files(self, name: str) -> dict[str, tuple[Path, ...]]:
        """Modality to the files that it needs, for one name of the list."""
        raise NotImplementedError

    def label_files(self, name: str) -> tuple[Path, ...]:
        """Where the label image of one name of the list may be; the first that exists is read."""
        raise NotImplementedError

    def read_modality(self, modality: str, files: Sequence[Path]) -> Array:
        """Decode the files of one modality to ``[H, W, C]`` in 8 bits, 16 bits or float32."""
        raise NotImplementedError

    def read_label(self, path: Path) -> NDArray[Any]:
        """Decode a label image to ``UInt8[H, W]``."""
        raise NotImplementedError

    def cut(self, values: Array) -> Array:
        """Take the part of a decoded ``[H, W, ...]`` that is used; all of it unless overridden."""
        return values

    def resize(self, values: Array, size: tuple[int, int]) -> Array:
        """Resize a decoded modality; as floats in [0, 1] unless overridden."""
        return resize_image(scale(values), size)

    def normalise(self, modality: str, values: Array) -> Tensor:
        """Turn ``[H, W, C]`` into ``Float[C, H, W]``; unless overridden, C = 1 becomes three equal channels."""
        return to_tensor(values, modality == self.normalised)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read_some(index, list(self.channels))

    def read_some(self, index: int, modalities: Sequence[str]) -> dict[str, Any]:
        """A sample with some of its modalities; files of others are not opened, and they are None."""
        check_index(self.name, index, len(self), self.split)
        key = (index, tuple(modalities))
        read = self._cache.get(key) or self._read(index, modalities)
        if self.cache:
            self._cache[key] = read
        inputs: dict[str, Tensor | None] = {}
        for modality in self.channels:
            values = read[modality]
            inputs[modality] = None if values is None else self.normalise(modality, values)
        target = read["target"]
        assert target is not None  # _find_files makes sure of it
        return {"inputs": inputs, "target": torch.from_numpy(target.astype(np.int64))}

    def template(self, modality: str, sample: Mapping[str, Any]) -> Tensor:
        """Zeros of the height and width of the target, to which all images are registered."""
        return torch.zeros(self.channels[modality], *sample["target"].shape)

    def explain_missing(self, index: int, modality: str) -> str:
        """Name the file that was not found, and the way out."""
        name = self.ids[index]
        return self._lacks(name, modality, self.modality_files(name)[modality])

    def _lacks(self, name: str, modality: str, files: Sequence[Path]) -> str:
        place = next((path for path in files if not path.is_file()), files[0])
        return (
            f"{self.name}: sample {name} has no {modality}, expected at {place}; complete the data, take the name off "
            "its list, or set allow_missing=true"
        )

    def _find_ids(self) -> tuple[str, ...]:
        if self.split == "test" or ("val" in self.lists and (self.root / self.lists["val"]).is_file()):
            return self.names_of(self.split)
        held_out = self.split == "val"
        names = self.names_of("train")
        return tuple(one for one in names if (fraction(self.about.name, one) < self.val_fraction) == held_out)

    def _find_files(self, name: str) -> dict[str, tuple[Path, ...]]:
        """The files of one sample: ``target`` and the modalities that it has."""
        labels = self.label_files(name)
        label = next((path for path in labels if path.is_file()), None)
        if label is None:
            places = " or ".join(map(str, labels))
            raise DataNotFoundError(f"{self.name}: sample {name} has no label image, expected at {places}")
        found: dict[str, tuple[Path, ...]] = {}
        wanted = self.modality_files(name)
        for modality, files in wanted.items():
            if all(path.is_file() for path in files):
                found[modality] = files
            elif not self.allow_missing:
                raise DataNotFoundError(self._lacks(name, modality, files))
        if not found:
            places = ", ".join(str(path) for files in wanted.values() for path in files)
            raise DataNotFoundError(f"{self.name}: sample {name} has no modality at all, expected at {places}")
        return {**found, "target": (label,)}

    def _read(self, index: int, modalities: Sequence[str]) -> dict[str, Array | None]:
        files = self._files[index]
        read: dict[str, Array | None] = {
            name: self.read_modality(name, files[name]) if name in files and name in modalities else None
            for name in self.channels
        }
        label = self.read_label(files["target"][0])
        read["target"] = label
        sizes = {str(files[name][0]): one.shape[: label.ndim] for name, one in read.items() if one is not None}
        if len(set(sizes.values())) != 1:
            axes = "height, width" if label.ndim == 2 else "x, y, z"
            raise LightningMMError(
                f"{self.name}: the files of sample {self.ids[index]} differ in size ({axes}): {sizes}"
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
                part = resize_labels(part, self.size) if name == "target" else self.resize(part, self.size)
            read[name] = part
        return read
