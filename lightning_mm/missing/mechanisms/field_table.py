"""The values of a field of all samples of a split, from the data set or from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.missing.policies import Fields


def field_values(field: str, table: str | None, fields: Fields) -> Sequence[str]:
    """Return the value of each sample.

    Args:
        field: Name of the field, or of the column of the table.
        table: A CSV file whose first column holds the name of a sample; None for a field of the data set.
        fields: The fields of the data set; those of a table are looked up by its ``id``.

    Raises:
        DataNotFoundError: If the file is not there.
        LightningMMError: If it has no such column, names a sample twice or lacks one.
    """
    if table is None:
        return [str(value) for value in fields(field)]
    rows, names = _read(Path(table), field), [str(name) for name in fields("id")]
    found = [_value(rows, name) for name in names]
    lacking = [name for name, value in zip(names, found) if value is None]
    if lacking:
        raise LightningMMError(
            f"table {table} lacks {len(lacking)} of {len(names)} samples, {lacking[0]!r} for one; its names are such "
            f"as {next(iter(rows))!r}. Add a row for each"
        )
    return [value for value in found if value is not None]


def _value(rows: dict[str, str], name: str) -> str | None:
    """The value of a sample, or of the longest name that it begins with."""
    while name not in rows and "/" in name:
        name = name.rpartition("/")[0]
    return rows.get(name)


def _read(path: Path, field: str) -> dict[str, str]:
    """Name of a sample to its value."""
    if not path.is_file():
        raise DataNotFoundError(f"no table of {field!r} at {path}; expected a CSV file, one row for each sample")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file, strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LightningMMError(f"{path} is not a CSV file: {error}") from error
    if len(lines) < 2 or field not in lines[0][1:]:
        columns = lines[0][1:] if lines else []
        raise LightningMMError(
            f"table {path}: expected a first column with the names of samples, one headed {field!r}, and one line for "
            f"each sample; got {len(lines)} lines and the columns {columns}"
        )
    column, rows = lines[0].index(field, 1), dict[str, str]()
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(lines[0]):
            raise LightningMMError(f"table {path}, row {number}: expected {len(lines[0])} cells, got {len(line)}")
        if line[0] in rows:
            raise LightningMMError(f"table {path}, row {number}: {line[0]!r} is there twice; leave one out")
        rows[line[0]] = line[column]
    return rows
