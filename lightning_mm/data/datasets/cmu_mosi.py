"""CMU-MOSI and CMU-MOSEI: sentiment of spoken opinions, as features of text, audio and vision for every step.

IEMOCAP, emotions of actors in conversation, comes in files of the same form.

Shapes: N utterances, T steps, D features of a modality, E emotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import check_index
from lightning_mm.data.pages.cmu_mosi import CMU_MOSEI, CMU_MOSI, IEMOCAP
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.data.readers.unpickle import read_pickle
from lightning_mm.errors import DataNotFoundError, LightningMMError, check_choice

Array = NDArray[Any]
Layout = Literal["mult", "mmsa"]

SPLITS = {"train": "train", "val": "valid", "test": "test"}
"""Our split to the files' own."""
MODALITIES = CMU_MOSI.modalities
LABELS: dict[Layout, str] = {"mult": "labels", "mmsa": "regression_labels"}
_MMSA_FILES = ("aligned_50.pkl", "unaligned_50.pkl")


class CmuMosi(Dataset[dict[str, Any]]):
    """Sentiment in [-3, 3] with three modalities: ``text``, ``audio`` and ``vision``.

    Two layouts of files are read, whole and without running code that a pickle may hold. ``mult``, of the code of MulT:
    ``mosi_data.pkl`` (aligned to words) or ``mosi_data_noalign.pkl``. ``mmsa``: ``aligned_50.pkl`` or
    ``unaligned_50.pkl``. Features are returned as stored, as the code of MulT trains on them; minus infinity in
    audio becomes 0. Sequences of unaligned ``mmsa`` files carry the lengths that are stored (at least one step), text
    that of the words that its ``text_bert`` counts, if there is one; all others are as long as the file pads them.

    Args:
        split: ``train``, ``val`` or ``test``, the official ones.
        root: The folder that holds the file; ``$LIGHTNING_MM_DATA/cmu_mosi`` when not given.
        layout: ``mult`` or ``mmsa``.
        aligned: Whether steps of all modalities are those of the words.
        allow_missing: Whether the file may lack the array of a modality, which is then None in all samples. Rows that
            are all zero are never taken as missing: the features of a silent or faceless utterance may be.

    Attributes:
        ids: Name of every utterance, its number where the file has none.
        channels: Modality to its features D.

    Shape:
        A sample is ``{"inputs": {"text": Float[T, D], ...}, "target": float}``; with lengths an input is
        ``{"values": Float[length, D], "length": int}``.

    Raises:
        DataNotFoundError: If the folder or the file is not there.
        LightningMMError: If an argument is out of range, or the file is damaged, holds code or something else.

    Reference:
        Zadeh et al.: MOSI, arXiv 1606.06259; files: MulT, arXiv 1906.00295; MMSA, arXiv 2203.12441.
    """

    modalities: ClassVar[tuple[str, ...]] = MODALITIES
    folder: ClassVar[str] = "cmu_mosi"
    files: ClassVar[dict[Layout, tuple[str, str]]] = {
        "mult": ("mosi_data.pkl", "mosi_data_noalign.pkl"),
        "mmsa": _MMSA_FILES,
    }
    """Layout to the names of the aligned and the unaligned file."""
    widths: ClassVar[dict[Layout, dict[str, int]]] = {
        "mult": {"text": 300, "audio": 5, "vision": 20},
        "mmsa": {"text": 768, "audio": 5, "vision": 20},
    }
    about: ClassVar[About] = CMU_MOSI

    def __init__(
        self,
        split: str,
        root: str | None = None,
        layout: Layout = "mult",
        aligned: bool = True,
        allow_missing: bool = False,
    ) -> None:
        name = type(self).__name__
        check_choice(f"{name}: split", split, SPLITS)
        check_choice(f"{name}: layout", layout, self.files)
        self.split, self.layout, self.aligned, self.allow_missing = split, layout, aligned, allow_missing
        self.channels = dict(self.widths[layout])
        file = self.files[layout][0 if aligned else 1]
        self.path = find_folder(name, self.folder, root, [file]) / file
        part = self._part(read_pickle(self.path))
        self._keys = list(part)[:12]
        labels = _numbers(part, LABELS[layout], self._where)
        self._labels = self._targets(labels, f"{self._where}: {LABELS[layout]}")
        self._values = {one: self._features(part, one) for one in MODALITIES if self._has(part, one)}
        if not self._values:
            raise DataNotFoundError(
                f"{self._where} has none of {list(MODALITIES)}; copy the file again from the source"
            )
        steps = {one: values.shape[1] for one, values in self._values.items()}
        if aligned and len(set(steps.values())) > 1:
            raise LightningMMError(
                f"{self._where}: aligned modalities differ in their steps, {steps}; set aligned=false"
            )
        self._lengths = self._stored_lengths(part) if self._stores_lengths else {}
        self._counts_words = "text_bert" in part
        self.ids = _ids(part.get("id"), len(self._labels), f"{self._where}: id")

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        check_index(type(self).__name__, index, len(self), self.split)
        inputs: dict[str, Any] = dict.fromkeys(MODALITIES)
        for name, values in self._values.items():
            if name in self._lengths:
                length = self._lengths[name][index]
                inputs[name] = {"values": values[index, :length].clone(), "length": length}
            else:
                inputs[name] = values[index].clone()
        target = self._labels[index]
        return {"inputs": inputs, "target": target.clone() if isinstance(target, Tensor) else target}

    def template(self, modality: str, sample: Mapping[str, Any]) -> Any:
        """Zeros of as many steps as the sample has of another modality, in the form of the file."""
        present = next(value for value in sample["inputs"].values() if value is not None)
        steps = len(present["values"] if isinstance(present, Mapping) else present)
        values = torch.zeros(steps, self.channels[modality])
        counted = modality != "text" or self._counts_words
        return {"values": values, "length": steps} if self._stores_lengths and counted else values

    def explain_missing(self, index: int, modality: str) -> str:
        """Name the array that the file lacks, and the way out; the same for all utterances."""
        return self._lacks(modality)

    def _lacks(self, modality: str) -> str:
        return f"{self._where} has no {modality!r}, it has {self._keys}; complete the file, or set allow_missing=true"

    @property
    def _stores_lengths(self) -> bool:
        return self.layout == "mmsa" and not self.aligned

    @property
    def _where(self) -> str:
        return f"{type(self).__name__}: {self.path}, {SPLITS[self.split]}"

    def _targets(self, found: Array, where: str) -> Sequence[float | Tensor]:
        return _labels(found, where)

    def _part(self, content: Any) -> Mapping[str, Any]:
        """Take the dict of the split."""
        name = SPLITS[self.split]
        if not isinstance(content, Mapping) or not isinstance(content.get(name), Mapping):
            came = list(content)[:8] if isinstance(content, Mapping) else f"a {type(content).__name__}"
            raise LightningMMError(
                f"{type(self).__name__}: {self.path}: expected a dict of the splits {list(SPLITS.values())}, each a "
                f"dict, got {came}; copy the file again from the source"
            )
        part: Mapping[str, Any] = content[name]
        if LABELS[self.layout] not in part:
            raise LightningMMError(
                f"{self._where} lacks {LABELS[self.layout]!r}, it has {list(part)[:12]}; set layout, or copy the file "
                "again from the source"
            )
        return part

    def _has(self, part: Mapping[str, Any], name: str) -> bool:
        if name not in part and not self.allow_missing:
            raise DataNotFoundError(self._lacks(name))
        return name in part

    def _features(self, part: Mapping[str, Any], name: str) -> Tensor:
        """``Float[N, T, D]`` of one modality."""
        found, width, count = _numbers(part, name, self._where), self.channels[name], len(self._labels)
        if found.ndim != 3 or found.shape[0] != count or found.shape[2] != width or not found.shape[1]:
            other = next((f"set layout to {one!r}, or " for one in self.files if one != self.layout), "")
            raise LightningMMError(
                f"{self._where}: expected {name} of shape ({count}, steps, {width}) in layout {self.layout!r}, got "
                f"{found.shape}; {other}take the file of this data set"
            )
        values = torch.from_numpy(found.astype(np.float32))  # a copy
        if name == "audio":
            values[values == -torch.inf] = 0.0  # logarithms of silence
        wrong = (~values.isfinite()).flatten(1).any(1).nonzero().flatten()
        if len(wrong):
            raise LightningMMError(
                f"{self._where}: {name} is not finite in {len(wrong)} utterances, first in number {int(wrong[0])}; "
                "copy the file again from the source"
            )
        return values

    def _stored_lengths(self, part: Mapping[str, Any]) -> dict[str, list[int]]:
        """Read the length of each sequence of the modalities for which the file has lengths."""
        stored = {}
        for name, values in self._values.items():
            if name == "text":
                tokens = _numbers(part, "text_bert", self._where) if "text_bert" in part else np.empty(0)
                if tokens.ndim != 3 or tokens.shape[1] != 3:  # ids, mask, segment of every token
                    continue
                found, key = tokens[:, 1].sum(1), "text_bert"
            else:
                key = f"{name}_lengths"
                found = _numbers(part, key, self._where)
            whole = (
                found.shape == (len(values),) and np.isfinite(found).all() and (found == found.astype(np.int64)).all()
            )
            if not whole or ((found < 0) | (found > values.shape[1])).any():
                raise LightningMMError(
                    f"{self._where}: expected {len(values)} lengths of {name} from 0 to {values.shape[1]} in {key!r}, "
                    f"got {found[:8].tolist()}; copy the file again from the source"
                )
            # At least one step: no sequence is empty.
            stored[name] = found.astype(np.int64).clip(1).tolist()
        return stored


class CmuMosei(CmuMosi):
    """The larger set of the same kind, see :class:`CmuMosi`; ``mult`` files are called ``mosei_senti_data*.pkl``.

    Reference:
        Zadeh et al.: CMU-MOSEI, ACL 2018; files: MulT, arXiv 1906.00295; MMSA, arXiv 2203.12441.
    """

    folder = "cmu_mosei"
    files: ClassVar[dict[Layout, tuple[str, str]]] = {
        "mult": ("mosei_senti_data.pkl", "mosei_senti_data_noalign.pkl"),
        "mmsa": _MMSA_FILES,
    }
    widths: ClassVar[dict[Layout, dict[str, int]]] = {
        "mult": {"text": 300, "audio": 74, "vision": 35},
        "mmsa": {"text": 768, "audio": 74, "vision": 35},
    }
    about: ClassVar[About] = CMU_MOSEI


class Iemocap(CmuMosi):
    """Four emotions, each there or not, with three modalities: ``text``, ``audio`` and ``vision``.

    Files of the code of MulT, read like those of :class:`CmuMosi`: ``iemocap_data.pkl`` (aligned to words) or
    ``iemocap_data_noalign.pkl``; ``labels`` are ``(N, 4, 2)``, one-hot in absent and present, or ``(N, 4)``, 0 and 1.

    Args:
        split: ``train``, ``val`` or ``test``, the official ones.
        root: The folder that holds the file; ``$LIGHTNING_MM_DATA/iemocap`` when not given.
        aligned: Whether steps of all modalities are those of the words.
        allow_missing: Whether the file may lack the array of a modality, see :class:`CmuMosi`.

    Shape:
        A sample is ``{"inputs": {"text": Float[T, 300], "audio": Float[T, 74], "vision": Float[T, 35]}, "target":
        Int64[4]}``; the emotions are neutral, happy, sad and angry.

    Raises:
        DataNotFoundError: If the folder or the file is not there.
        LightningMMError: If an argument is out of range, or the file is damaged, holds code or something else.

    Reference:
        Busso et al.: IEMOCAP, Language Resources and Evaluation 2008; files: MulT, arXiv 1906.00295.
    """

    folder = "iemocap"
    files: ClassVar[dict[Layout, tuple[str, str]]] = {"mult": ("iemocap_data.pkl", "iemocap_data_noalign.pkl")}
    widths: ClassVar[dict[Layout, dict[str, int]]] = {"mult": {"text": 300, "audio": 74, "vision": 35}}
    about: ClassVar[About] = IEMOCAP
    class_names: ClassVar[tuple[str, ...]] = IEMOCAP.class_names

    def __init__(self, split: str, root: str | None = None, aligned: bool = True, allow_missing: bool = False) -> None:
        super().__init__(split, root, "mult", aligned, allow_missing)

    def _targets(self, found: Array, where: str) -> Sequence[Tensor]:
        emotions = len(self.class_names)
        one_hot = found.ndim == 3 and found.shape[2] == 2
        if found.shape[1:] != ((emotions, 2) if one_hot else (emotions,)):
            raise LightningMMError(
                f"{where}: expected shape (utterances, {emotions}, 2), absent and present of each of "
                f"{list(self.class_names)}, got {found.shape}; copy the file again from the source"
            )
        right = np.isin(found, (0, 1)) & (found.sum(2, keepdims=True) == 1 if one_hot else True)
        if not right.all():
            raise LightningMMError(
                f"{where}: expected 0 and 1, of absent and present one each, got {found[~right][:8].tolist()}; copy "
                "the file again from the source"
            )
        labels = found.argmax(2) if one_hot else found
        return list(torch.from_numpy(labels.astype(np.int64)))


def _numbers(part: Mapping[str, Any], key: str, where: str) -> Array:
    """Read an array of numbers, from an array or a list."""
    if key not in part:
        raise LightningMMError(f"{where} lacks {key!r}, it has {list(part)[:12]}; copy the file again from the source")
    try:
        found = np.asarray(part[key])
    except ValueError:  # a list of lists of different lengths
        found = np.empty(0, dtype=object)
    if found.dtype.kind not in "biuf":
        raise LightningMMError(
            f"{where}: expected {key} to hold numbers, got {found.dtype}; copy the file again from the source"
        )
    return found


def _labels(found: Array, where: str) -> list[float]:
    """Read one number per utterance, from ``(N,)`` or ``(N, 1, 1)``."""
    if found.ndim == 0 or found.size != found.shape[0]:
        raise LightningMMError(f"{where}: expected one number for each utterance, got shape {found.shape}")
    values = found.reshape(-1).astype(np.float32)
    wrong = values[~(np.abs(values) <= 3)]
    if len(wrong):
        raise LightningMMError(f"{where}: expected sentiments in [-3, 3], got {wrong[:8].tolist()}")
    return [float(value) for value in values]


def _ids(found: Any, count: int, where: str) -> tuple[str, ...]:
    """Read the names of all utterances; several parts (video, start, end) are joined."""
    if found is None:
        return tuple(str(number) for number in range(count))
    if not isinstance(found, (list, tuple, np.ndarray)) or (isinstance(found, np.ndarray) and found.ndim == 0):
        raise LightningMMError(f"{where}: expected {count} names, got {found!r}; copy the file again from the source")
    names = tuple("_".join(map(_text, one if isinstance(one, (list, tuple)) else np.ravel(one))) for one in found)
    if len(names) != count:
        raise LightningMMError(
            f"{where}: expected {count} names, got {len(names)}; copy the file again from the source"
        )
    return names


def _text(part: Any) -> str:
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part)
