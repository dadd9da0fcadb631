"""NTU RGB+D 60: 60 actions of 40 people, seen by a colour camera and a depth camera.

Shapes: T = ``frames``, H = W = ``size``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import SPLITS, check_index, fraction
from lightning_mm.data.pages.ntu_rgbd import NTU_RGBD
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.data.readers.jet import JET, linear_levels, wrapped_levels
from lightning_mm.data.readers.ntu_rgbd_files import (
    FOLDERS,
    Recording,
    decode_frame,
    missing_frames,
    read_recordings,
    refuse,
)
from lightning_mm.errors import IncompleteDataError, LightningMMError, check_choice, check_whole

Pixels = NDArray[np.uint8]

PROTOCOLS = ("CS", "CV")
DEPTH_LEVELS = ("linear", "wrapped")


class NtuRgbd(Dataset[dict[str, Any]]):
    """Action recognition with two modalities, ``rgb`` and ``depth``: clips of T frames spread over the recording.

    Files: ``<root>/dataset_splits/<@CS|@CV>/<train|valid>.txt`` with lines ``S001C001P001R001A001_rgb 103 0`` (name,
    number of frames N, label), ``<root>/ImagesResize/<name>/%06d.jpg`` and ``<root>/nturgb+d_depth_masked/<name
    without _rgb>/MDepth-%08d.png``, both counted from 1. Recordings of 16 frames or fewer are left out. A folder may
    hold more frames than the list says, of which the first N are used, as in the public loader; fewer are an error.

    The official lists have no validation part. ``test`` is ``valid.txt``; ``val`` are whole subjects of ``train.txt``,
    the ``val_fraction`` of them (at least one) that come first in the order of ``sha256("ntu_rgbd/P001")``.

    The recording is cut into T equal segments, of which the middle frames are read; where it is shorter than T, frames
    come twice. Frames are brought to ``resize`` and a square of ``size`` is cut out of the middle. The data module
    reads training samples by :meth:`draw_sample`: a random frame of each segment and a random square, the same for both
    modalities. Colours become (x - 127.5) / 128; depth is shown in the colours of JET (red, green, blue) first.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder that holds the three; ``$LIGHTNING_MM_DATA/ntu_rgbd`` when not given.
        protocol: ``CS`` (cross-subject) or ``CV`` (cross-view).
        frames: Frames T in a clip; 16, 32 and 64 are usual.
        size: Height and width of a clip in pixels.
        resize: Width and height of a frame before it is cut, in pixels.
        val_fraction: Part of the training subjects that is kept for validation.
        depth_levels: How depth in millimetres becomes 8 bits: ``linear`` up to ``depth_range``, or ``wrapped`` (255
            times the value, lowest 8 bits), as the public loader of UMDR does. Files of 8 bits are taken as they are.
        depth_range: Depth of level 255, in millimetres.
        allow_missing: Whether a recording may lack all frames of one modality; it is then None.

    Shape:
        A sample is ``{"inputs": {"rgb": Float[3, T, H, W], "depth": Float[3, T, H, W]}, "target": int}`` with labels 0
        to 59, which takes 24 T H W bytes; nothing is kept.

    Raises:
        DataNotFoundError: If a list or the folder of a recording is not there; when read, if a frame is not there.
        LightningMMError: If an argument is out of range or a list is damaged; when read, if a frame is damaged.

    Reference:
        Shahroudy et al.: NTU RGB+D, CVPR 2016.
    """

    about: ClassVar[About] = NTU_RGBD
    channels: ClassVar[dict[str, int]] = {"rgb": 3, "depth": 3}

    def __init__(
        self,
        split: str,
        root: str | None = None,
        protocol: str = "CS",
        frames: int = 16,
        size: int = 224,
        resize: tuple[int, int] = (320, 240),
        val_fraction: float = 0.1,
        depth_levels: str = "linear",
        depth_range: int = 8000,
        allow_missing: bool = False,
    ) -> None:
        for name, value, choices in (
            ("split", split, SPLITS),
            ("protocol", protocol, PROTOCOLS),
            ("depth_levels", depth_levels, DEPTH_LEVELS),
        ):
            check_choice(f"NtuRgbd: {name}", value, choices)
        for name, count in (("frames", frames), ("size", size), ("depth_range", depth_range)):
            check_whole(f"NtuRgbd: {name}", count, 1)
        if min(resize) < size:
            raise LightningMMError(
                f"NtuRgbd: a square of size={size} does not fit into resize={tuple(resize)}; make resize larger"
            )
        if not 0 < val_fraction < 1:
            raise LightningMMError(f"NtuRgbd: val_fraction must be above 0 and below 1, got {val_fraction}")
        self.split, self.protocol, self.frames, self.size = split, protocol, frames, size
        self.resize, self.val_fraction = (int(resize[0]), int(resize[1])), val_fraction
        self.depth_levels, self.depth_range, self.allow_missing = depth_levels, depth_range, allow_missing
        lists = [f"dataset_splits/@{protocol}/{name}.txt" for name in ("train", "valid")]
        self.root = find_folder("NtuRgbd", "ntu_rgbd", root, lists)
        recordings = read_recordings(self.root / lists[split == "test"])
        if split != "test":
            val = _val_subjects({one.subject for one in recordings}, val_fraction)
            recordings = [one for one in recordings if (one.subject in val) == (split == "val")]
        problems = {one: problem for one in recordings if (problem := self._problem(one)) is not None}
        self.recordings = tuple(one for one in recordings if one not in problems)
        """Name, length, label and subject of every sample."""
        if problems:
            raise IncompleteDataError.of(list(problems.values()), self)

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The middle frames and the middle square."""
        return self.read_some(index, tuple(FOLDERS))

    def read_some(self, index: int, modalities: Sequence[str]) -> dict[str, Any]:
        """A sample with some of its modalities; files of others are not opened, and they are None."""
        return self._sample(index, None, modalities)

    def draw_sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A random frame of each segment and a random square in the train split; the others as by index."""
        return self.draw_some(index, rng, tuple(FOLDERS))

    def draw_some(self, index: int, rng: np.random.Generator, modalities: Sequence[str]) -> dict[str, Any]:
        """What :meth:`draw_sample` returns with some of its modalities; files of others are not opened."""
        return self._sample(index, rng if self.split == "train" else None, modalities)

    def template(self, modality: str, sample: Mapping[str, Any]) -> torch.Tensor:
        """Zeros in the shape of the clip that the sample has: both are cut alike, and have three channels."""
        return torch.zeros_like(next(value for value in sample["inputs"].values() if value is not None))

    def explain_missing(self, index: int, modality: str) -> str:
        """Name the folder that was not found or holds no frame, and the way out."""
        return self._lacks(self.recordings[index], modality)

    def _sample(self, index: int, rng: np.random.Generator | None, modalities: Sequence[str]) -> dict[str, Any]:
        check_index("NtuRgbd", index, len(self), self.split)
        recording = self.recordings[index]
        chosen = spread(recording.length, self.frames, rng)
        free = [side - self.size for side in self.resize]
        left, top = [space // 2 if rng is None else int(rng.integers(0, space + 1)) for space in free]
        inputs: dict[str, Any] = {}
        for modality in FOLDERS:
            if modality not in modalities:
                inputs[modality] = None
                continue
            folder = recording.folder(self.root, modality)
            missing = missing_frames(folder, modality, recording)
            if missing and self.allow_missing and len(missing) == recording.length:
                inputs[modality] = None
                continue
            if missing:
                refuse(folder, modality, recording, missing)
            # One frame may be wanted twice, and is decoded once.
            read = {place: self._frame(folder, modality, place, left, top) for place in np.unique(chosen).tolist()}
            clip = torch.from_numpy(np.stack([read[place] for place in chosen.tolist()]))
            inputs[modality] = clip.permute(3, 0, 1, 2).float().sub_(127.5).div_(128).contiguous()
        return {"inputs": inputs, "target": recording.label}

    def _frame(self, folder: Path, modality: str, place: int, left: int, top: int) -> Pixels:
        """The wanted square of one frame, ``UInt8[H, W, 3]``."""
        image = decode_frame(folder, modality, place)
        if modality == "depth":
            levels = np.asarray(image)
            if image.mode != "L":
                depth = levels.astype(np.uint16)
                linear = self.depth_levels == "linear"
                levels = linear_levels(depth, self.depth_range) if linear else wrapped_levels(depth)
            image = Image.fromarray(JET[levels])
        box = (left, top, left + self.size, top + self.size)
        return np.asarray(image.resize(self.resize, Image.Resampling.BILINEAR).crop(box), dtype=np.uint8)

    def _problem(self, recording: Recording) -> str | None:
        """Check folders at once; frames, of which there are millions, are checked when they are read."""
        expected = {modality: recording.folder(self.root, modality) for modality in FOLDERS}
        lacking = [modality for modality, folder in expected.items() if not folder.is_dir()]
        if lacking and not self.allow_missing:
            return self._lacks(recording, lacking[0])
        if len(lacking) == len(expected):
            return (
                f"NtuRgbd: recording {recording.name} has neither modality, expected at "
                f"{' and '.join(map(str, expected.values()))}; take it off the lists"
            )
        return None

    def _lacks(self, recording: Recording, modality: str) -> str:
        return (
            f"NtuRgbd: recording {recording.name} has no {modality}, expected at "
            f"{recording.folder(self.root, modality)}; complete the data, take it off the lists, or set "
            "allow_missing=true"
        )


def spread(length: int, frames: int, rng: np.random.Generator | None = None) -> NDArray[np.int64]:
    """Choose ``frames`` frames, one out of each of as many equal segments: the middle one, or a random one.

    Example:
        >>> spread(20, 4).tolist(), spread(3, 6).tolist()
        ([2, 7, 12, 17], [0, 0, 1, 1, 2, 2])
    """
    edges = np.arange(frames + 1) * length // frames
    first, behind = edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)
    return (first + behind - 1) // 2 if rng is None else rng.integers(first, behind)


def _val_subjects(subjects: set[int], part: float) -> set[int]:
    ordered = sorted(subjects, key=lambda subject: fraction("ntu_rgbd", f"P{subject:03d}"))
    return set(ordered[: max(1, round(part * len(ordered)))])
