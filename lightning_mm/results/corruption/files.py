"""``corruption.csv``, with a table in Markdown and a picture next to it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

from lightning_mm.errors import DataNotFoundError, LightningMMError, shown
from lightning_mm.files import write_atomically
from lightning_mm.results.corruption.picture import draw_corruption
from lightning_mm.results.corruption.result import COLUMNS, CorruptionResult, CorruptionRow
from lightning_mm.results.corruption.tables import markdown
from lightning_mm.results.robustness import Direction

NAME = "corruption.csv"


def save_corruption(result: CorruptionResult, folder: str | Path) -> dict[str, Path]:
    """Write ``corruption.csv``, ``.md`` and ``.png``; the rows first.

    Args:
        result: The rows.
        folder: Where to write; made if missing.

    Returns:
        ``{"corruption": path, "corruption_markdown": path, "corruption_png": path}``.
    """
    folder, text = Path(folder), io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(getattr(row, column)) for column in COLUMNS] for row in result.rows)
    written = {"corruption": write_atomically(folder / NAME, text.getvalue().encode())}
    written["corruption_markdown"] = write_atomically(folder / "corruption.md", f"{markdown(result)}\n")
    figure = draw_corruption(result)
    written["corruption_png"] = write_atomically(
        folder / "corruption.png", lambda file: figure.savefig(file, format="png")
    )
    return written


def remove_corruption(folder: str | Path) -> None:
    """Remove the files of an earlier sweep from the folder of one that has damaged nothing."""
    for suffix in (".csv", ".md", ".png"):
        (Path(folder) / NAME).with_suffix(suffix).unlink(missing_ok=True)


def read_corruption(
    path: str | Path, primary_metric: str | None = None, directions: Mapping[str, Direction] | None = None
) -> CorruptionResult:
    """Read what :func:`save_corruption` has written.

    Args:
        path: A ``corruption.csv``, or its folder.
        primary_metric: What tables show; that of the first row when not given.
        directions: Metric to ``"max"`` or ``"min"``, as in the ``sweep.json`` next to it; ``"max"`` if missing.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is no such table.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise DataNotFoundError(f"no table of corruptions at {path}: expected one that `lightning-mm sweep` wrote")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise LightningMMError(f"{path}: expected the columns {list(COLUMNS)}, got {reader.fieldnames}")
            rows = [_row(path, reader.line_num, cells) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise LightningMMError(f"{path} is no table of corruptions: {error}") from error
    if not rows:
        raise LightningMMError(f"{path} holds no figures")
    return CorruptionResult(rows, primary_metric or rows[0].metric, dict(directions or {}))


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _row(path: Path, line: int, cells: dict[str, str]) -> CorruptionRow:
    def number(name: str) -> float | None:
        return float(cells[name]) if cells[name] else None

    try:
        value = number("value")
        return CorruptionRow(
            method=cells["method"],
            modality=cells["modality"],
            corruption=cells["corruption"],
            severity=int(cells["severity"]),
            metric=cells["metric"],
            value=math.nan if value is None else value,
            n=int(cells["n"]),
            seed=int(cells["seed"]),
            low=number("low"),
            high=number("high"),
        )
    except (TypeError, ValueError) as error:
        raise LightningMMError(f"{path}, line {line}: expected numbers, got {shown(list(cells.values()))}") from error
