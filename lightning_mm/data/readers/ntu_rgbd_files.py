"""The files of NTU RGB+D: lists of recordings and folders of frames; errors name the file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lightning_mm.data.readers.images import decode
from lightning_mm.errors import DataNotFoundError, LightningMMError

NUM_CLASSES = 60
FOLDERS = {"rgb": "ImagesResize", "depth": "nturgb+d_depth_masked"}
FILES = {"rgb": "{:06d}.jpg", "depth": "MDepth-{:08d}.png"}

_SHORTEST = 17  # recordings of 16 frames or fewer are left out
_DIGITS = 6  # of the number of a frame in the name of its file
_NAME = re.compile(r"S\d{3}C\d{3}P(\d{3})R\d{3}A\d{3}_rgb", re.ASCII)
_MODES = {"rgb": ("RGB",), "depth": ("I;16", "I;16B", "I", "L")}
_WORDS = {"rgb": "8-bit RGB", "depth": "16-bit or 8-bit gray"}


class Recording(NamedTuple):
    """A line of a list."""

    name: str
    length: int
    label: int
    subject: int

    def folder(self, root: Path, modality: str) -> Path:
        """The folder of its frames."""
        return root / FOLDERS[modality] / (self.name if modality == "rgb" else self.name.removesuffix("_rgb"))


def read_recordings(path: Path) -> list[Recording]:
    """Read the recordings of a list that are long enough.

    Raises:
        DataNotFoundError: If none is long enough.
        LightningMMError: If a line is not a recording, a label is out of range, or a recording is named twice.
    """
    recordings = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        name = _NAME.fullmatch(words[0])
        numbers = all(word.isdecimal() and len(word) <= _DIGITS for word in words[1:])
        if name is None or len(words) != 3 or not numbers:
            raise LightningMMError(
                f"NtuRgbd: {path}, line {number}: expected a name, a number of frames and a label, such as "
                f"'S001C001P001R001A001_rgb 103 0', got {line!r}"
            )
        length, label = int(words[1]), int(words[2])
        if label >= NUM_CLASSES:
            raise LightningMMError(
                f"NtuRgbd: label out of range in {path}, line {number}: expected 0 to {NUM_CLASSES - 1}, got {label}"
            )
        if length >= _SHORTEST:
            recordings.append(Recording(words[0], length, label, int(name[1])))
    twice = [name for name, count in Counter(one.name for one in recordings).items() if count > 1]
    if twice:
        raise LightningMMError(f"NtuRgbd: {path} names {twice[0]} twice; expected every recording once")
    if not recordings:
        raise DataNotFoundError(f"NtuRgbd: {path} names no recording of at least {_SHORTEST} frames")
    return recordings


def missing_frames(folder: Path, modality: str, recording: Recording) -> list[int]:
    """List the numbers of the frames, counted from 1, that the folder lacks."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [place for place in range(1, recording.length + 1) if FILES[modality].format(place) not in there]


def refuse(folder: Path, modality: str, recording: Recording, missing: list[int]) -> None:
    """Raise a DataNotFoundError that says which frames are missing."""
    if missing[0] + len(missing) == recording.length + 1:  # all of them at the end
        raise DataNotFoundError(
            f"NtuRgbd: the list says that {recording.name} has {recording.length} frames, but {folder} holds the first "
            f"{recording.length - len(missing)}; copy it again, or correct the list"
        )
    raise DataNotFoundError(
        f"NtuRgbd: {folder / FILES[modality].format(missing[0])} is not there; {len(missing)} of the "
        f"{recording.length} frames of {recording.name} are missing; copy it again"
    )


def decode_frame(folder: Path, modality: str, place: int) -> Image.Image:
    """Decode a frame, counted from 0.

    Raises:
        DataNotFoundError: If it is not there.
        PermissionError: If it may not be read.
        LightningMMError: If it is damaged or no image of its kind.
    """
    return decode(folder / FILES[modality].format(place + 1), _MODES[modality], _WORDS[modality])
