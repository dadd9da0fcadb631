"""Results as data: every figure and every sample of a folder as two long tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import SEPARATOR
from lightning_mm.results.per_sample.cells import cells_of, widened
from lightning_mm.results.rows import COLUMNS
from lightning_mm.results.stored.find import TEST, Stored, stored_sweeps

Columns = dict[str, NDArray[Any]]
"""Name of a column to its values; all are of one length."""
INSTALL = "pip install 'lightning-mm[frames]'"


@dataclass(frozen=True)
class StoredResults:
    """The sweeps of some folders as tables.

    Args:
        sweeps: What was read.
        frames: Whether the tables are pandas frames; otherwise they are ``{column: array}``.
    """

    sweeps: list[Stored]
    frames: bool

    @cached_property
    def combinations(self) -> Any:
        """One row per figure: the columns of ``sweep.csv``, and ``folder``, ``split`` and ``direction`` before them.

        ``low`` and ``high`` are NaN without an interval.
        """
        lines = [
            (one.folder, one.split, one.result.direction(row.metric), *(getattr(row, name) for name in COLUMNS))
            for one in self.sweeps
            for row in one.result.rows
        ]
        columns = dict(zip(("folder", "split", "direction", *COLUMNS), zip(*lines)))
        return self._table({name: _array(values) for name, values in columns.items()})

    @cached_property
    def samples(self) -> Any:
        """One row per sample that counts for a (sweep, method, combination, seed), empty if none are stored.

        Columns: ``folder, method, combination, seed, index`` (position in the data set), ``observed`` (what the sample
        had, as a combination), and one per statistic: ``prediction`` and ``target``; ``score`` of two classes;
        ``confidence``, ``target_probability`` and ``brier`` of more; ``confusion`` of a segmentation, a matrix in each
        row. Whole numbers are int64. A statistic that only some sweeps have is NaN (``None`` for matrices) in the rows
        of the others.
        """
        parts = [part for one in self.sweeps for part in _sample_parts(one)]
        names = list(dict.fromkeys(name for part in parts for name in part))
        sizes = [len(part["index"]) for part in parts]
        return self._table({name: _joined([part.get(name) for part in parts], sizes) for name in names})

    def _table(self, columns: Columns) -> Any:
        if not self.frames:
            return columns
        import pandas

        return pandas.DataFrame({name: list(one) if one.dtype == object else one for name, one in columns.items()})


def load_results(
    folder: str | Path | Sequence[str | Path], split: str | None = TEST, frames: bool | None = None
) -> StoredResults:
    """Read a sweep, a study with all of its cells, or a folder of such, as data.

    Args:
        folder: A folder of one sweep (``sweep.csv``), the ``out`` folder of a study (every method, combination and
            seed), a folder of several, or a list of these.
        split: ``"test"``, ``"val"`` for the sweeps that chose settings, ``None`` for both.
        frames: Whether tables are pandas frames; by default if pandas is installed. Otherwise they are
            ``{column: array}``.

    Raises:
        DataNotFoundError: If a folder holds no sweep.
        LightningMMError: If a file is damaged, or frames are asked for without pandas.

    Example:
        >>> results = load_results("experiments/results/utd_mhad", frames=False)
        >>> of_rgb = results.combinations["combination"] == "skeleton"
        >>> sorted(set(results.combinations["metric"][of_rgb]))
        ['accuracy', 'macro_f1']
        >>> results.samples["prediction"].shape == results.samples["target"].shape
        True
    """
    if frames is None or frames:
        try:
            import pandas  # noqa: F401
        except ImportError as error:
            if frames:
                raise LightningMMError(f"frames=True needs pandas: {INSTALL}; or leave frames out") from error
            frames = False
        else:
            frames = True
    folders = [folder] if isinstance(folder, str | Path) else list(folder)
    if not folders:
        raise LightningMMError("load_results: expected one or more folders, got none")
    return StoredResults([one for place in folders for one in stored_sweeps(place, split)], frames)


def _sample_parts(one: Stored) -> list[Columns]:
    """The rows of all cells of a sweep."""
    samples, parts = one.result.samples, []
    observed = _combinations(one)
    for cell in cells_of(one.result):
        texts = {"folder": one.folder, "method": cell.method, "combination": cell.combination}
        part: Columns = {name: np.full(len(cell.rows), text, dtype=object) for name, text in texts.items()}
        part["seed"] = np.full(len(cell.rows), cell.seed)
        part["index"] = samples["index"][cell.rows].astype(np.int64)
        if observed is not None:
            part["observed"] = observed[cell.rows]
        for name, values in cell.statistics.items():
            values = widened(values)
            part[name] = values if values.ndim == 1 else _cells(values)
        parts.append(part)
    return parts


def _combinations(one: Stored) -> NDArray[Any] | None:
    """What every sample observed, as text, ``[N]``."""
    observed, names = one.result.samples.get("observed"), one.result.modalities
    if observed is None or observed.ndim != 2 or observed.shape[1] != len(names):
        return None
    kinds, codes = np.unique(observed.astype(bool), axis=0, return_inverse=True)
    texts = [SEPARATOR.join(name for name, has in zip(names, kind) if has) for kind in kinds]
    return np.array(texts, dtype=object)[codes.reshape(-1)]


def _cells(values: NDArray[Any]) -> NDArray[Any]:
    """An array of arrays, one per sample."""
    found = np.empty(len(values), dtype=object)
    for place, one in enumerate(values):
        found[place] = one
    return found


def _joined(parts: list[NDArray[Any] | None], sizes: list[int]) -> NDArray[Any]:
    """Parts of a column under each other, NaN or ``None`` where one is missing."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        empty, kind = (None, object) if any(part.dtype == object for part in known) else (np.nan, np.float64)
        return np.concatenate(
            [
                np.full(size, empty, dtype=kind) if part is None else part.astype(kind)
                for part, size in zip(parts, sizes)
            ]
        )
    return np.concatenate(known)


def _array(values: Sequence[Any]) -> NDArray[Any]:
    if any(isinstance(value, str) for value in values):
        return np.array(values, dtype=object)
    return np.array([np.nan if value is None else value for value in values])
