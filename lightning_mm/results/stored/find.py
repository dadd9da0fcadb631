"""Finds the sweeps below a folder: one sweep, the cells of a study, or finished tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_mm.errors import DataNotFoundError
from lightning_mm.modality_names import SEPARATOR
from lightning_mm.results.files import read
from lightning_mm.results.merge import renamed
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import DEDICATED

TABLE = "sweep.csv"
MARKER = "test.done.json"
"""A study writes it next to the folder of a finished test sweep."""
TEST = "test"


@dataclass(frozen=True)
class Stored:
    """One sweep on disk.

    Args:
        folder: Where it is, relative to the folder that was searched.
        split: The split it was measured on.
        result: Its figures.
    """

    folder: str
    split: str
    result: SweepResult


def stored_sweeps(folder: str | Path, split: str | None = TEST) -> list[Stored]:
    """Read the sweeps below a folder.

    A folder with a ``sweep.csv`` is that sweep alone. Below any other folder all are read, however deep: the cells of a
    study (each under the name that its method has in the study), or the tables of several studies. A table that was put
    together from cells below the same folder is left out, since its figures are those of the cells, and so is a copy.

    Args:
        folder: The folder, or a ``sweep.csv``.
        split: ``"test"``, ``"val"``, or ``None`` for both.

    Raises:
        DataNotFoundError: If there is none.
        LightningMMError: If a file is damaged.
    """
    folder = Path(folder)
    tables = list(_tables(folder))
    root = folder if folder.is_dir() else folder.parent
    found: list[tuple[Path, Stored]] = []
    seen: set[tuple[str, bytes]] = set()
    for table in tables:
        result = read(table)
        own = split_of(result.config) or ("val" if table.parent.name.endswith("_val") else TEST)
        content = own, table.read_bytes()
        if content in seen and not (table.parent.parent / MARKER).is_file():
            continue  # a copy, as `table` makes of a single sweep; networks of a study may well be equal
        seen.add(content)
        if split is None or own == split:
            place = table.parent.relative_to(root).as_posix()
            found.append((table, Stored(place, own, _as_in_study(table, result))))
    single = [table for table, one in found if not _collected(one.result.config)]
    kept = [
        one
        for table, one in found
        if not _collected(one.result.config) or not any(_below(cell, table.parent.parent, root) for cell in single)
    ]
    if not kept:
        what = f"only those of another split than {split!r}" if tables else "none"
        raise DataNotFoundError(
            f"no sweep in {folder}: expected a {TABLE}, as `lightning-mm sweep`, `table` and `compare` write it, in it "
            f"or below it; found {what}"
        )
    return kept


def _tables(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        yield folder  # a file that `read` checks
    elif (folder / TABLE).is_file():
        yield folder / TABLE
    else:
        yield from sorted(folder.rglob(TABLE))


def split_of(config: Mapping[str, Any]) -> str:
    """The split of a result by its configuration, or of what it was merged from; empty if it does not say."""
    if "split" in config:
        return str(config["split"])
    parts = config.get("merged")
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, Mapping):
            return split_of(part)
    return ""


def _collected(config: Mapping[str, Any]) -> bool:
    """Whether a table was put together from sweeps, by ``compare`` or ``table``."""
    return "study" in config or "merged" in config


def _below(path: Path, folder: Path, root: Path) -> bool:
    """Whether a path is below a folder which is the root that was searched, or below it."""
    return path.is_relative_to(folder) and folder.is_relative_to(root)


def _as_in_study(table: Path, result: SweepResult) -> SweepResult:
    """Give a dedicated network of a study the name of its method, which may be a variant such as ``dedicated_small``.

    Its folder is ``<method>/<combination>/[<tuned value>/]seed<k>/sweep``.
    """
    cell = table.parent.parent
    if result.methods != [DEDICATED] or not (cell / MARKER).is_file():
        return result
    method = next((one.name for one in cell.parents if not _is_part(one.name, result)), DEDICATED)
    marker = _content(cell / MARKER)
    # the command names the folder of the cell; a folder that was moved or is no cell keeps the sweep's own name
    command = marker.get("command")
    named = isinstance(command, list) and any(f"{method}/" in str(word) for word in command)
    return renamed(result, {DEDICATED: method}) if named else result


def _is_part(name: str, result: SweepResult) -> bool:
    """Whether a folder is named after a tuned value or a combination, not after a method."""
    return "=" in name or set(name.split(SEPARATOR)) <= set(result.modalities)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
