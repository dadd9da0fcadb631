"""Which modalities a stream has in each of its frames.

Shapes: T frames, M modalities.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from lightning_mm.errors import DataNotFoundError, LightningMMError, check_whole, shown
from lightning_mm.files import write_atomically
from lightning_mm.missing.policies import random_uniform
from lightning_mm.modalities import Modalities, check_mask

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_FRAME = "frame"


class AvailabilityTrace:
    """The modalities that each frame of a stream has; a frame may have none.

    Args:
        available: ``Bool[T, M]``, True where a frame has a modality.
        modalities: Names of the columns.

    Raises:
        LightningMMError: If the mask has another form, or there is no frame.

    Example:
        >>> trace = AvailabilityTrace(torch.tensor([[True, True], [True, False], [False, False]]), ["rgb", "depth"])
        >>> trace.combinations()
        ['rgb+depth', 'rgb', '']
    """

    def __init__(self, available: Bool[Tensor, "frame modality"], modalities: Modalities | Sequence[str]) -> None:
        self.modalities = modalities if isinstance(modalities, Modalities) else Modalities(modalities)
        self.available = check_mask("availability trace", available, self.modalities)
        if not len(available):
            raise LightningMMError("availability trace: expected one or more frames, got none")

    def __len__(self) -> int:
        return len(self.available)

    def combinations(self) -> list[str]:
        """The combination of each frame; the empty string for a frame that has nothing."""
        return [self.modalities.name(row) for row in self.available]

    @classmethod
    def markov(
        cls,
        modalities: Modalities | Sequence[str],
        frames: int,
        mean_on: float | Mapping[str, float],
        mean_off: float | Mapping[str, float],
        seed: int = 0,
        min_present: int = 1,
    ) -> AvailabilityTrace:
        """Draw a trace in which each modality fails and returns by itself (a Markov chain of two states).

        In every frame a modality that is there fails with probability ``1 / mean_on``, and one that has failed returns
        with ``1 / mean_off``. A step that would leave fewer than ``min_present`` modalities does not happen: all stay
        as they are for that frame, which lengthens the times a little. All modalities are there before the first frame.

        Args:
            modalities: Names in the order of the columns.
            frames: The number of frames T.
            mean_on: Mean number of frames until a modality fails, 1 or more, for all or by modality.
            mean_off: Mean number of frames until it returns, 1 or more, for all or by modality.
            seed: Seed of the draw; the first frames do not depend on how many are drawn.
            min_present: The fewest modalities of a frame; 0 leaves the modalities independent.

        Raises:
            LightningMMError: If a setting is out of range, or a modality has no duration.

        Example:
            >>> trace = AvailabilityTrace.markov(["rgb", "depth"], 1000, mean_on=30, mean_off=10)
            >>> len(trace), bool(trace.available.any(1).all())
            (1000, True)
        """
        names = modalities if isinstance(modalities, Modalities) else Modalities(modalities)
        check_whole("frames", frames, 1)
        check_whole("min_present", min_present, 0)
        if min_present > len(names):
            raise LightningMMError(f"min_present is {min_present}, but there are only {list(names)}")
        p_fail, p_return = (
            1 / np.array(_durations(what, value, names))
            for what, value in (("mean_on", mean_on), ("mean_off", mean_off))
        )
        uniform = random_uniform(seed, 0, range(frames), len(names))
        here = np.ones(len(names), dtype=bool)
        rows = np.empty((frames, len(names)), dtype=bool)
        for number, draw in enumerate(uniform):
            after = np.where(here, draw >= p_fail, draw < p_return)
            here = after if after.sum() >= min_present else here
            rows[number] = here
        return cls(torch.from_numpy(rows), names)

    @classmethod
    def read(cls, path: str | Path, modalities: Modalities | Sequence[str] | None = None) -> AvailabilityTrace:
        """Read a trace from a file.

        Args:
            path: A ``.csv`` file with a column for each modality, headed by its name, and a line for each frame, with
                ``true`` or ``false`` (or 1 and 0); a column ``frame`` is not read. Or a ``.npz`` file with
                ``available`` (``[T, M]`` of booleans, or of 1 and 0) and ``modalities``, their names.
            modalities: Which modalities, in this order; all of the file when not given.

        Raises:
            DataNotFoundError: If there is no such file.
            LightningMMError: If it holds no trace, or lacks a modality.
        """
        path = Path(path)
        if not path.is_file():
            raise DataNotFoundError(f"no availability trace at {path}; expected a .csv or .npz file")
        names, rows = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
        wanted = list(names) if modalities is None else list(modalities)
        for name in wanted:
            if name not in names:
                raise LightningMMError(f"{path} has no column for the modality {name!r}, only for {list(names)}")
        return cls(rows[:, [names.index(name) for name in wanted]], Modalities(wanted))

    def save(self, path: str | Path) -> Path:
        """Write the trace as a ``.csv`` or ``.npz`` file, which :meth:`read` reads."""
        path = Path(path)
        if path.suffix == ".npz":
            arrays: dict[str, Any] = {
                "available": self.available.numpy(),
                "modalities": np.array(list(self.modalities)),
            }
            return write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([_FRAME, *self.modalities])
        writer.writerows([number, *row] for number, row in enumerate(self.available.int().tolist()))
        return write_atomically(path, text.getvalue().encode())

    def __repr__(self) -> str:
        return f"AvailabilityTrace({len(self)} frames of {list(self.modalities)})"


def _durations(what: str, value: float | Mapping[str, float], names: Modalities) -> list[float]:
    given = dict(value) if isinstance(value, Mapping) else dict.fromkeys(names, value)
    if set(given) != set(names):
        raise LightningMMError(f"{what}: expected a number for each of {list(names)}, got {sorted(given)}")
    found = [float(given[name]) for name in names]
    if not all(1 <= one < float("inf") for one in found):
        raise LightningMMError(f"{what}: expected a finite number of frames, 1 or more, got {shown(value)}")
    return found


def _read_csv(path: Path) -> tuple[list[str], Tensor]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = [line for line in csv.reader(file, strict=True) if line] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LightningMMError(f"{path} is not a CSV file: {error}") from error
    columns = [(place, name.strip()) for place, name in enumerate(header) if name.strip() != _FRAME]
    if not columns or not lines:
        raise LightningMMError(
            f"availability trace {path}: expected a line with the names of the modalities and one for each frame, got "
            f"{len(lines)} lines below {header}"
        )
    rows = []
    for number, line in enumerate(lines, 2):
        cells = [_BOOLEANS.get(line[place].strip().lower()) for place, _ in columns if place < len(line)]
        if len(line) != len(header) or None in cells:
            raise LightningMMError(
                f"availability trace {path}, line {number}: expected true or false for each of "
                f"{[name for _, name in columns]}, got {shown(line)}"
            )
        rows.append(cells)
    return [name for _, name in columns], torch.tensor(rows, dtype=torch.bool)


def _read_npz(path: Path) -> tuple[list[str], Tensor]:
    try:
        # opened here, since NumPy leaves a damaged file open
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            available, names = np.asarray(file["available"]), [str(name) for name in file["modalities"]]
    except Exception as error:  # any byte may be wrong
        raise LightningMMError(
            f"{path} is no availability trace ({error}): expected the arrays available, [T, M], and modalities"
        ) from error
    fits = available.ndim == 2 and available.shape[1] == len(names) and available.dtype.kind in "bui"
    if not fits or not np.isin(available, (0, 1)).all():
        raise LightningMMError(
            f"availability trace {path}: expected available [T, {len(names)}] of booleans, or of 1 and 0, got "
            f"{available.dtype} {available.shape}"
        )
    return names, torch.from_numpy(available.astype(bool))
