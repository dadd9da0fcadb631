"""A hard table in a CSV file: which modalities exist of which sample, by name.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.errors import DataNotFoundError, LightningMMError, shown
from lightning_mm.missing.policies import MissingnessPolicy
from lightning_mm.modalities import Modalities

_MASK = "mask"
_PASSION = ("flair", "t1ce", "t1", "t2")
_GRADES = ("HG_", "LG_")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class CsvTable(MissingnessPolicy):
    """What exists of each sample, read from a CSV file by the names of samples; for ``train_observed``.

    The first column holds the name of a sample, as in the attribute ``ids`` of the data set. A name that ends before a
    ``/`` of the id counts for all samples that begin with it, such as a patient for all its slices. Two forms:

    - one column for each modality, headed by its name, with ``true`` or ``false`` (or 1 and 0);
    - that of the tables of PASSION: a column ``mask`` with a list such as ``[False, True, False, False]``, whose
      modalities ``columns`` names; other columns are not read. Its BraTS 2020 names begin with the grade (``HG_`` or
      ``LG_``), which the published folders do not have, and which is left out.

    Samples of the table that the data set lacks are ignored. Samples with none of the modalities that are loaded are
    empty rows, which a hard table leaves out.

    Args:
        path: The file.
        columns: Modalities of the list ``mask``, in its order; ``flair, t1ce, t1, t2`` when not given.

    Raises:
        DataNotFoundError: If the file is not there.
        LightningMMError: If it is no such table, names a sample twice, or leaves a sample nothing; in
            :meth:`draw_named`, if a sample or a modality is not in it.

    Example:
        >>> table = CsvTable("table.csv")  # name,audio,video; clip1,true,false; clip2,true,true
        >>> table.draw_named(Modalities(["video"]), ["clip2", "clip1"]).tolist()
        [[True], [False]]

    Reference:
        github.com/Jun-Jie-Shi/PASSION, datasets/BraTS/brats_split.
    """

    def __init__(self, path: str, columns: list[str] | None = None) -> None:
        self.path, self.columns = path, columns
        self._modalities, self._rows = _read(Path(path), columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The samples, in the order of the file."""
        return tuple(self._rows)

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        raise LightningMMError(
            f"table {self.path} goes by the names of samples and not by their positions; use it as "
            "data.train_observed, with a data set that has ids"
        )

    def draw_named(self, modalities: Modalities, names: Sequence[str]) -> Bool[Tensor, "batch modality"]:
        """Look up what exists of some samples.

        Args:
            modalities: Names in the order of the columns of the mask.
            names: The samples, such as ``Brats18_2013_0_1``, or ``19/87``, slice 87 of patient 19.

        Raises:
            LightningMMError: If a sample or a modality is not in the table.
        """
        unknown = [name for name in modalities if name not in self._modalities]
        if unknown:
            raise LightningMMError(
                f"table {self.path} has no column for the modality {unknown[0]!r}, only for {list(self._modalities)}; "
                "name the columns as the data set does"
            )
        found = [self._row(name) for name in names]
        lacking = [name for name, row in zip(names, found) if row is None]
        if lacking:
            raise LightningMMError(
                f"table {self.path} lacks {len(lacking)} of {len(names)} samples, {lacking[0]!r} for one; its names "
                f"are such as {next(iter(self._rows))!r}. Add a row for each, or take the samples off the list of the "
                "training split"
            )
        places = [self._modalities.index(name) for name in modalities]
        rows = [[row[place] for place in places] for row in found if row is not None]
        return torch.tensor(rows, dtype=torch.bool).reshape(len(names), len(modalities))

    def _row(self, name: str) -> tuple[bool, ...] | None:
        """The row of a sample, or of the longest name that it begins with."""
        while name not in self._rows and "/" in name:
            name = name.rpartition("/")[0]
        return self._rows.get(name)


def _read(path: Path, columns: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, tuple[bool, ...]]]:
    """Modalities of the table, and sample to which of them it has."""
    if not path.is_file():
        raise DataNotFoundError(f"no table of what exists at {path}; expected a CSV file, one row for each sample")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LightningMMError(f"{path} is not a CSV file: {error}") from error
    if len(lines) < 2 or len(lines[0]) < 2:
        raise LightningMMError(
            f"table {path}: expected a line of column names, separated by commas, and one line for each sample, got "
            f"{len(lines)} lines"
        )
    header, body = [cell.strip() for cell in lines[0]], lines[1:]
    listed = _MASK in header
    if columns is not None and not listed:
        raise LightningMMError(f"table {path} names its modalities itself, {header[1:]}; leave columns out")
    try:
        names = tuple(Modalities(columns or _PASSION) if listed else Modalities(header[1:]))
    except LightningMMError as error:
        raise LightningMMError(f"table {path}: {error}") from error
    rows: dict[str, tuple[bool, ...]] = {}
    for number, line in enumerate(body, 2):
        where = f"table {path}, row {number}"
        if len(line) != len(header):
            raise LightningMMError(f"{where}: expected {len(header)} cells, got {len(line)}")
        cells = line[header.index(_MASK)].strip().strip("[]").split(",") if listed else line[1:]
        name = line[0].strip()
        if listed:
            name = next((name.removeprefix(grade) for grade in _GRADES if name.startswith(grade)), name)
        row = _booleans(cells, names, where)
        if name in rows:
            raise LightningMMError(f"{where}: {name!r} is there twice; leave one out")
        rows[name] = row
    return names, rows


def _booleans(cells: Sequence[str], names: Sequence[str], where: str) -> tuple[bool, ...]:
    found = [_BOOLEANS.get(cell.strip().lower()) for cell in cells]
    row = tuple(one for one in found if one is not None)
    if len(row) != len(found) or len(row) != len(names):
        raise LightningMMError(f"{where}: expected true or false for each of {list(names)}, got {shown(list(cells))}")
    if not any(row):
        raise LightningMMError(
            f"{where}: no modality exists; a sample has at least one, or is left out of the data set"
        )
    return row
