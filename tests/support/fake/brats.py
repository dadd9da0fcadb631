"""Small generated files of BraTS in the layouts of 2018, 2020 and 2023, written byte by byte and not with nibabel."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Literal

import numpy as np

Year = Literal[2018, 2020, 2023]
SHAPE = (12, 10, 8)
ENDINGS = {
    "old": {"flair": "_flair", "t1ce": "_t1ce", "t1": "_t1", "t2": "_t2", "seg": "_seg"},
    "new": {"flair": "-t2f", "t1ce": "-t1c", "t1": "-t1n", "t2": "-t2w", "seg": "-seg"},
}
LEVELS = {"flair": 100, "t1ce": 300, "t1": 500, "t2": 700}
PATIENTS = 12


def names_of(year: Year) -> list[str]:
    made = {2018: "Brats18_CBICA_A{:02d}_1", 2020: "BraTS20_Training_{:03d}", 2023: "BraTS-GLI-{:05d}-000"}
    return [made[year].format(number) for number in range(1, PATIENTS + 1)]


def folder_of(root: Path, year: Year, name: str) -> Path:
    """HGG and LGG in turn in 2018."""
    grade = ("HGG", "LGG")[int(name.split("_")[2][1:]) % 2] if year == 2018 else "."
    return root / grade / name


def path_of(root: Path, year: Year, name: str, part: str) -> Path:
    ending = ENDINGS["new" if year == 2023 else "old"][part]
    return folder_of(root, year, name) / f"{name}{ending}.nii{'' if year == 2020 else '.gz'}"


def arrays(name: str, shape: tuple[int, int, int] = SHAPE) -> dict[str, np.ndarray]:
    """A brain without its outer voxels, brighter in some sequences, with a core (1), an edge (2) and a rim (4)."""
    rng = np.random.default_rng(sum(name.encode()))
    brain = np.zeros(shape, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    seg = np.zeros(shape, np.int16)
    x, y, z = (side // 2 for side in shape)
    for label, reach in ((2, 3), (4, 2), (1, 1)):
        seg[x - reach : x + reach, y - reach : y + reach, z - reach : z + reach] = label
    parts = {one: np.where(brain, level + rng.integers(1, 90, shape), 0) for one, level in LEVELS.items()}
    return {**{one: (values + 40 * seg * brain).astype(np.int16) for one, values in parts.items()}, "seg": seg}


def write(root: Path, year: Year = 2020, listed: bool = False, shape: tuple[int, int, int] = SHAPE) -> list[str]:
    """Twelve patients; with ``listed``, the last two test, the two before validate."""
    names = names_of(year)
    for name in names:
        for part, values in arrays(name, shape).items():
            if part == "seg" and year == 2023:
                values = np.where(values == 4, 3, values).astype(np.int16)
            save(path_of(root, year, name, part), values)
    if listed:
        for split, some in {"train": names[:-4], "val": names[-4:-2], "test": names[-2:]}.items():
            (root / f"{split}.txt").write_text("\n".join(some) + "\n")
    return names


def save(path: Path, values: np.ndarray) -> Path:
    """One NIfTI-1 file of int16 or float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code, bits = {"int16": (4, 16), "float32": (16, 32)}[str(values.dtype)]
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    sides = (*values.shape, *[1] * (7 - values.ndim))
    struct.pack_into("<8h", header, 40, values.ndim, *sides)
    struct.pack_into("<2h", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[344:348] = b"n+1\0"
    content = bytes(header) + values.astype(values.dtype.newbyteorder("<")).tobytes(order="F")
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)
    return path
