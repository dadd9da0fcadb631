"""MosiFeatures: CMU-MOSI, spoken opinions on films, as ready-made features of every utterance.

Shapes: N utterances, D features of a modality, T utterances of one video in a row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import SPLITS, check_index, fraction
from lightning_mm.data.pages.mosi_features import MOSI_FEATURES
from lightning_mm.data.readers.arrays import BOOLEANS, INTEGERS, NUMBERS, STRINGS, check_labels, read_npz
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.errors import LightningMMError, check_choice, check_fraction, check_whole

Array = NDArray[Any]

MODALITIES = ("text", "audio", "video")
FEATURES = "mosi_utterance_features.npz"


class MosiFeatures(Dataset[dict[str, Any]]):
    """Binary sentiment with three modalities: ``text``, ``audio`` and ``video``.

    A smoke set, not a benchmark: the features of text and video were extracted by networks that had been trained on the
    labels of the training utterances (accuracy of one modality in cross-validation on those 0.98 and 0.92, on test 0.76
    and 0.52), so that a network on top fits training and validation far better than test, and validation says little.
    Show the share of the most frequent label (:meth:`majority`) next to every figure; on the released file it is 0.522
    for train, 0.545 for val and 0.621 for test.

    Splits: the official test videos (752 utterances of 31 videos); video ``id`` of the other 62 belongs to validation
    when ``sha256("mosi/<id>")``, its first 8 bytes read as a fraction of 2^64, is below ``val_fraction`` (268
    utterances of 13 videos; 1179 of 49 are left for training). No video is in two splits.

    Features are standardised with the mean and standard deviation over the training utterances, without those of
    validation; a feature that is constant there is zero everywhere.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder that holds ``mosi_utterance_features.npz``; ``$LIGHTNING_MM_DATA/mosi_bclstm`` when not given.
        context: 0: an input is the utterance alone. k > 0: an input is a sequence of up to k utterances of the same
            video that come before it, and itself last, in the order of the numbers in their ids.
        val_fraction: Part of the training videos that is kept for validation.

    Attributes:
        ids: ``<video>_<number>`` of every sample, sorted by video and number.
        videos: Video of every sample.

    Shape:
        A sample is ``{"inputs": {"text": Float[100], "audio": Float[73], "video": Float[100]}, "target": int}``, with
        ``context`` an input is ``{"values": Float[T, D], "length": T}``, T from 1 to ``context + 1``. The target is a
        position in ``class_names``.

    Raises:
        DataNotFoundError: If the folder or the file is not there.
        LightningMMError: If an argument is out of range, or the file is damaged or holds something else.

    Reference:
        Zadeh et al.: MOSI, arXiv 1606.06259; features: Poria et al.: Context-dependent sentiment analysis in
        user-generated videos, ACL 2017, github.com/declare-lab/multimodal-deep-learning (bc-LSTM).
    """

    about: ClassVar[About] = MOSI_FEATURES
    class_names = about.class_names
    channels: ClassVar[dict[str, int]] = {"text": 100, "audio": 73, "video": 100}

    def __init__(self, split: str, root: str | None = None, context: int = 0, val_fraction: float = 0.15) -> None:
        check_choice("MosiFeatures: split", split, SPLITS)
        check_whole("MosiFeatures: context", context, 0)
        check_fraction("MosiFeatures: val_fraction", val_fraction, below_one=True)
        self.split, self.context, self.val_fraction = split, context, val_fraction
        self.root = find_folder("MosiFeatures", "mosi_bclstm", root, [FEATURES])
        learning = _read(self.root, "train")
        held_out = np.array([fraction("mosi", video) < val_fraction for video in learning["video_id"]], dtype=bool)
        training = _select(learning, ~held_out)
        if len(training["label"]) == 0:
            raise LightningMMError(
                f"MosiFeatures: val_fraction={val_fraction} leaves no training video of "
                f"{len(set(learning['video_id']))}; take a smaller one"
            )
        own = {"train": training, "val": _select(learning, held_out)}.get(split) or _read(self.root, "test")
        self.ids: tuple[str, ...] = tuple(own["utt_id"].tolist())
        self.videos: tuple[str, ...] = tuple(own["video_id"].tolist())
        self._labels = own["label"]
        self._values = {name: _standardise(own[name], training[name]) for name in MODALITIES}
        # Where the video of every utterance begins.
        self._begins = np.array([self.videos.index(video) for video in self.videos], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        check_index("MosiFeatures", index, len(self), self.split)
        begin = max(index - self.context, int(self._begins[index]))
        inputs: dict[str, Any] = {}
        for name, values in self._values.items():
            sequence = values[begin : index + 1].clone()
            inputs[name] = {"values": sequence, "length": len(sequence)} if self.context else sequence[0]
        return {"inputs": inputs, "target": int(self._labels[index])}

    def majority(self) -> float:
        """Compute the share of the most frequent label: the accuracy of always answering with it.

        Raises:
            LightningMMError: If the split is empty.
        """
        if len(self) == 0:
            raise LightningMMError(f"MosiFeatures: split {self.split!r} is empty; there is no most frequent label")
        return float(np.bincount(self._labels, minlength=2).max() / len(self))


def _read(root: Path, part: str) -> dict[str, Array]:
    """Read the arrays of one half of the file, sorted by video and number of the utterance."""
    path = root / FEATURES
    forms = {"utt_id": (STRINGS, 1), "video_id": (STRINGS, 1), "label": (BOOLEANS + INTEGERS, 1)}
    forms |= dict.fromkeys(MODALITIES, (NUMBERS, 2))
    arrays = read_npz(path, {f"{part}_{name}": form for name, form in forms.items()})
    data = {name: arrays[f"{part}_{name}"] for name in forms}
    count = len(data["utt_id"])
    for name, width in {"video_id": (), "label": (), **{k: (v,) for k, v in MosiFeatures.channels.items()}}.items():
        if data[name].shape != (count, *width):
            raise LightningMMError(
                f"MosiFeatures: {path}: expected {part}_{name} of shape {(count, *width)}, got {data[name].shape}"
            )
    check_labels(f"{path}, {part}_label", data["label"], (0, 1), "0 (negative) and 1 (positive)")
    for name in MODALITIES:
        if not np.isfinite(data[name]).all():
            row = int(np.flatnonzero(~np.isfinite(data[name]).all(1))[0])
            raise LightningMMError(
                f"MosiFeatures: {path}: {part}_{name} is not finite for utterance {data['utt_id'][row]}"
            )
    pairs = zip(data["utt_id"].tolist(), data["video_id"].tolist())
    keys = [_key(str(utterance), str(video), f"{path}: {part}_utt_id") for utterance, video in pairs]
    return _select(data, np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64))


def _key(utterance: str, video: str, where: str) -> tuple[str, int]:
    number = utterance.removeprefix(f"{video}_")
    if number == utterance or not number.isdecimal():
        raise LightningMMError(
            f"MosiFeatures: {where}: expected <video>_<number> with video {video!r}, got {utterance!r}"
        )
    return video, int(number)


def _select(data: dict[str, Array], rows: Array) -> dict[str, Array]:
    return {name: values[rows] for name, values in data.items()}


def _standardise(values: Array, training: Array) -> Tensor:
    """``Float[N, D]``, of zero mean and unit standard deviation where ``values`` are those of training."""
    mean, std = training.mean(0), training.std(0)
    # The spread of a constant is not always exactly zero.
    constant = std <= 1e-9 * np.abs(training).max(0)
    scaled = np.where(constant, 0.0, (values - mean) / np.where(constant, 1.0, std))
    return torch.from_numpy(scaled.astype(np.float32))
