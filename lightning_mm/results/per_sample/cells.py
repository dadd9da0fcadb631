"""Per-sample statistics of a result, one set per method, combination and seed.

Shapes: N samples of the split, n of them count for a combination.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import ModalityNames
from lightning_mm.results.result import SweepResult

SWEEP_AGAIN = "sweep again with `lightning-mm sweep`, which writes sweep_samples.npz"
"""What to do if nothing is stored."""


@dataclass(frozen=True)
class Cell:
    """Statistics of the samples that count for one method, combination and seed.

    Args:
        method: The method.
        combination: In the fixed order of the result's modalities.
        seed: Seed of the training run.
        rows: Positions of these samples in ``result.samples["index"]``, ``Int[n]``.
        statistics: Name to values, ``[n, ...]``.
    """

    method: str
    combination: str
    seed: int
    rows: NDArray[np.int64]
    statistics: dict[str, NDArray[Any]]

    @property
    def key(self) -> tuple[str, str, int]:
        """Method, combination, seed."""
        return self.method, self.combination, self.seed

    def limited(self, kept: NDArray[np.bool_]) -> Cell:
        """Keep the statistics of some samples, ``Bool[N]``."""
        chosen = kept[self.rows]
        values = {name: one[chosen] for name, one in self.statistics.items()}
        return replace(self, rows=self.rows[chosen], statistics=values)


def widened(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers as int64: files hold them in the fewest bytes, in which sums and differences overflow."""
    return values.astype(np.int64) if values.dtype.kind in "iu" else values


def split_key(key: str) -> tuple[str, str]:
    """Split the key of a statistic into ``("seed<k>/" or "", "<method>/<combination>/<statistic>")``.

    Example:
        >>> split_key("seed3/ssf/rgb+depth/target")
        ('seed3/', 'ssf/rgb+depth/target')
    """
    found = re.fullmatch(r"(seed-?\d+/)([^/]+/[^/]+/.+)", key)
    return (found[1], found[2]) if found else ("", key)


def cells_of(result: SweepResult, methods: Iterable[str] | None = None) -> list[Cell]:
    """Read all cells that have statistics, in the order of the file.

    Args:
        result: A sweep that was read with its ``sweep_samples.npz``.
        methods: These only; by default all.

    Returns:
        The cells; none if the result has no statistics. Statistics whose seed is not known are left out.

    Raises:
        LightningMMError: If the statistics do not fit the samples.
    """
    index, observed = result.samples.get("index"), result.samples.get("observed")
    if index is None:
        return []
    names, wanted = ModalityNames(result.modalities), None if methods is None else set(methods)
    seeds: dict[str, set[int]] = {}
    for row in result.rows:
        seeds.setdefault(row.method, set()).add(row.seed)
    found: dict[tuple[str, str, int], dict[str, NDArray[Any]]] = {}
    for key, values in result.samples.items():
        prefix, rest = split_key(key)
        parts = rest.split("/", 2)
        if len(parts) < 3 or (wanted is not None and parts[0] not in wanted):
            continue
        own = seeds.get(parts[0], set())
        if prefix or len(own) == 1:
            seed = int(prefix[4:-1]) if prefix else min(own)
            found.setdefault((parts[0], names.canonical(parts[1]), seed), {})[parts[2]] = values
    return [
        Cell(*key, _rows(result, names, observed, len(index), key, statistics), statistics)
        for key, statistics in found.items()
    ]


def require_cells(result: SweepResult, methods: Iterable[str] | None = None) -> list[Cell]:
    """As :func:`cells_of`.

    Raises:
        LightningMMError: If the result has no statistics; the message says what writes them.
    """
    found = cells_of(result, methods)
    if not found:
        which = "these results" if methods is None else f"{', '.join(methods)}"
        raise LightningMMError(f"no per-sample statistics of {which} are stored next to sweep.csv; {SWEEP_AGAIN}")
    return found


def _rows(
    result: SweepResult,
    names: ModalityNames,
    observed: NDArray[Any] | None,
    size: int,
    key: tuple[str, str, int],
    statistics: dict[str, NDArray[Any]],
) -> NDArray[np.int64]:
    """Positions of the samples that count for the combination of a cell."""
    counts: NDArray[np.bool_] = np.ones(size, dtype=bool)
    if observed is not None:
        if observed.shape != (size, len(names)):
            raise LightningMMError(
                f"sweep_samples.npz: expected observed Bool[{size}, {len(names)}], got {observed.shape}; it is damaged "
                f"or of other modalities; {SWEEP_AGAIN}"
            )
        columns = [names.index(name) for name in names.parse(key[1])]
        counts = np.all(observed.astype(bool)[:, columns], axis=1)
    rows = np.flatnonzero(counts)
    for name, values in statistics.items():
        if values.ndim < 1 or len(values) != len(rows):
            raise LightningMMError(
                f"sweep_samples.npz: {name} of method {key[0]!r}, combination {key[1]!r}, seed {key[2]}: expected "
                f"{len(rows)} rows, one per sample that has these modalities, got {values.shape}; {SWEEP_AGAIN}"
            )
    return rows
