"""UTD-MHAD: 27 actions of eight people, seen by a depth camera (skeleton) and felt by a sensor on the body.

Shapes: T time steps (41 to 125 of the skeleton at 30 Hz, 107 to 326 of the sensor at 50 Hz), C channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import SPLITS, check_index
from lightning_mm.data.datasets.image_text.sentences import Sentences
from lightning_mm.data.pages.utd_mhad import UTD_MHAD, UTD_MHAD_SENTENCES
from lightning_mm.data.readers.arrays import INTEGERS, NUMBERS, check_labels, read_npz
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.errors import LightningMMError, check_choice, check_whole

Array = NDArray[Any]

VALIDATIONS = ("subject", "trial")
FILE = "utd_mhad_inertial_skeleton.npz"

_VAL_SUBJECT, _VAL_TRIAL = 7, 4
_JOINTS, _SHOULDER_CENTRE, _HIP_CENTRE = 20, 1, 3
_ARRAYS = {
    "inertial": (NUMBERS, 2),
    "skeleton": (NUMBERS, 3),
    **dict.fromkeys(("inertial_len", "skeleton_len", "action", "subject", "trial"), (INTEGERS, 1)),
}


class UtdMhad(Dataset[dict[str, Any]]):
    """Action recognition with three modalities: ``skeleton``, ``accelerometer``, ``gyroscope``.

    File: ``<root>/utd_mhad_inertial_skeleton.npz``, the sequences behind one another: ``inertial`` ``[sum T, 6]``
    (acceleration in g, then angular rate in degrees a second) with ``inertial_len``, ``skeleton`` ``[sum T, 20, 3]``
    (metres) with ``skeleton_len``, and for each sequence ``action`` (1 to 27), ``subject`` (1 to 8), ``trial``
    (1 to 4).

    The test split is the usual one: even subjects (430 sequences). Validation comes from the 431 sequences of the odd
    subjects and tells two things: ``val="subject"`` keeps subject 7 whole (108; train 323), an estimate for people
    never seen, as in the test; ``val="trial"`` keeps trial 4 of every subject and action (107; train 324), so that all
    four people are trained on, and is optimistic about the test.

    The skeleton does not depend on where a person stands and how tall it is: the hip centre of the first frame becomes
    the origin (movement of the whole body stays), and the distance from hip to shoulder centre, its mean over the
    sequence, becomes 1. Every channel is then standardised with mean and standard deviation of the train split.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder of the file; ``$LIGHTNING_MM_DATA/utd_mhad`` when not given.
        val: ``subject`` or ``trial``, see above.
        frames: Bring all sequences to this many steps by linear interpolation, first step and last step kept; native
            lengths when not given.
        stride: Replace every ``stride`` steps of the sensor by their mean, before ``frames``; the skeleton stays.
        captions: Whether the target is the sentence of the action, one of 27, for
            :class:`~lightning_mm.tasks.RetrievalTask`: all clips of an action have the same.

    Attributes:
        sentences: The sentences and their vocabulary.

    Shape:
        A sample is ``{"inputs": {"skeleton": S, "accelerometer": S, "gyroscope": S}, "target": int}`` with S =
        ``{"values": Float[T, C], "length": T}``, or ``Float[frames, C]`` if ``frames`` is given. C is 60 (x, y, z of
        20 joints), 3 and 3; the target is 0 to 26, or with ``captions`` ``{"caption": that number, "text":
        {"input_ids": Int64[6], "attention_mask": Int64[6]}}`` with a vocabulary of 55 tokens.

    Raises:
        DataNotFoundError: If the folder or the file is not there.
        LightningMMError: If an argument is out of range, or the file is damaged or does not hold what is said above.

    Reference:
        Chen, Jafari, Kehtarnavaz: UTD-MHAD, ICIP 2015; for research with citation, no open licence.
    """

    about: ClassVar[About] = UTD_MHAD
    class_names = about.class_names
    sentences: ClassVar[Sentences] = Sentences(UTD_MHAD_SENTENCES)
    channels: ClassVar[dict[str, int]] = {"skeleton": 3 * _JOINTS, "accelerometer": 3, "gyroscope": 3}

    def __init__(
        self,
        split: str,
        root: str | None = None,
        val: str = "subject",
        frames: int | None = None,
        stride: int = 1,
        captions: bool = False,
    ) -> None:
        check_choice("UtdMhad: split", split, SPLITS)
        check_choice("UtdMhad: val", val, VALIDATIONS)
        if frames is not None:
            check_whole("UtdMhad: frames", frames, 1)
        check_whole("UtdMhad: stride", stride, 1)
        self.split, self.val, self.frames, self.stride, self.captions = split, val, frames, stride, captions
        self.root = find_folder("UtdMhad", "utd_mhad", root, [FILE])
        arrays = _read(self.root / FILE)
        splits = _split(arrays["subject"], arrays["trial"], val)
        if not (splits == "train").any():
            raise LightningMMError(f"UtdMhad: {self.root / FILE} has no sequence to train on, so no statistics")
        chosen = np.flatnonzero(splits == split)
        self.keys: tuple[tuple[int, int, int], ...] = tuple(
            (int(arrays["action"][i]), int(arrays["subject"][i]), int(arrays["trial"][i])) for i in chosen
        )
        """``(action, subject, trial)`` of every sample, counted from 1 as in the file."""
        self.fields = {
            "label": [action - 1 for action, *_ in self.keys],
            "subject": [subject for _, subject, _ in self.keys],
            "trial": [trial for *_, trial in self.keys],
        }
        """What policies of missingness may depend on: one value per sample."""
        skeleton = _place(arrays["skeleton"], arrays["skeleton_len"], self.root / FILE)
        streams = {
            "skeleton": (skeleton.reshape(len(skeleton), -1), arrays["skeleton_len"]),
            "accelerometer": (arrays["inertial"][:, :3], arrays["inertial_len"]),
            "gyroscope": (arrays["inertial"][:, 3:], arrays["inertial_len"]),
        }
        self._sequences = {}
        for name, (steps, lengths) in streams.items():
            sequences = np.split(_standardise(steps, np.repeat(splits == "train", lengths)), lengths.cumsum()[:-1])
            self._sequences[name] = [sequences[i] for i in chosen]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        check_index("UtdMhad", index, len(self), self.split)
        inputs: dict[str, Any] = {}
        for name, sequences in self._sequences.items():
            values = sequences[index] if name == "skeleton" else _average(sequences[index], self.stride)
            if self.frames is None:
                inputs[name] = {"values": torch.tensor(values), "length": len(values)}
            else:
                inputs[name] = torch.tensor(_resample(values, self.frames))
        action = self.keys[index][0] - 1
        return {"inputs": inputs, "target": self.sentences.target(action) if self.captions else action}


def _read(path: Path) -> dict[str, Array]:
    """Read the arrays of the file and check that they fit together."""
    arrays = read_npz(path, _ARRAYS)
    count = len(arrays["action"])
    for name, form in (("inertial", (6,)), ("skeleton", (_JOINTS, 3))):
        values, lengths = arrays[name], arrays[f"{name}_len"]
        if values.shape[1:] != form or lengths.shape != (count,):
            raise LightningMMError(
                f"UtdMhad: {path} should hold {name} of shape (steps, {', '.join(map(str, form))}) and {count} entries "
                f"of {name}_len, one for each action; got {values.shape} and {lengths.shape}"
            )
        if (lengths < 1).any() or lengths.sum() != len(values):
            raise LightningMMError(
                f"UtdMhad: {path}: {name}_len must be positive and add up to the {len(values)} steps of {name}, got a "
                f"sum of {lengths.sum()} and a least length of {lengths.min(initial=0)}"
            )
        if not np.isfinite(values).all():
            raise LightningMMError(f"UtdMhad: {path}: {name} holds values that are not finite; copy it again")
    for name, most in (("action", len(UtdMhad.class_names)), ("subject", 8), ("trial", 4)):
        values = arrays[name]
        if values.shape != (count,):
            raise LightningMMError(f"UtdMhad: {path} should hold {count} entries of {name}, got {values.shape}")
        check_labels(f"{path}, {name}", values, range(1, most + 1), f"1 to {most}")
    return arrays


def _split(subject: Array, trial: Array, val: str) -> Array:
    held_out = subject == _VAL_SUBJECT if val == "subject" else trial == _VAL_TRIAL
    return np.where(subject % 2 == 0, "test", np.where(held_out, "val", "train"))


def _place(skeleton: Array, lengths: Array, path: Path) -> Array:
    """``[sum T, 20, 3]``: first hip centre of every sequence to the origin, its mean torso to length 1."""
    starts = lengths.cumsum() - lengths
    torso = np.linalg.norm(skeleton[:, _SHOULDER_CENTRE] - skeleton[:, _HIP_CENTRE], axis=-1)
    scale = np.add.reduceat(torso, starts) / lengths
    if not (scale > 0).all():
        raise LightningMMError(
            f"UtdMhad: {path}: hip and shoulder centre fall together in sequence {int(np.argmin(scale))}; copy it again"
        )
    origin = np.repeat(skeleton[starts, _HIP_CENTRE], lengths, axis=0)
    return np.asarray((skeleton - origin[:, None]) / np.repeat(scale, lengths)[:, None, None])


def _standardise(steps: Array, train: Array) -> Array:
    """``[sum T, C]`` to zero mean and unit standard deviation over the steps that ``train`` marks, as float32."""
    mean, std = steps[train].mean(0), steps[train].std(0)
    return np.asarray((steps - mean) / np.where(std > 1e-8, std, 1.0), dtype=np.float32)


def _average(values: Array, stride: int) -> Array:
    """``[T, C] -> [ceil(T / stride), C]``; the last mean is over what is left."""
    if stride == 1:
        return values
    starts = np.arange(0, len(values), stride)
    counts = np.minimum(stride, len(values) - starts)
    return np.asarray(np.add.reduceat(values, starts, axis=0) / counts[:, None], dtype=np.float32)


def _resample(values: Array, frames: int) -> Array:
    """``[T, C] -> [frames, C]``, linear, both ends kept."""
    position = np.linspace(0, len(values) - 1, frames)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, len(values) - 1)
    weight = (position - below)[:, None]
    return np.asarray((1 - weight) * values[below] + weight * values[above], dtype=np.float32)
