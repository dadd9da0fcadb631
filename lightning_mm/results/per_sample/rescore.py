"""Other metrics of a finished sweep, from the statistics of its samples: no network, no torch.

Shapes: N samples of the split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.results.bootstrap import Bootstrap, Key, percentile_interval, resample_counts
from lightning_mm.results.per_sample.cells import SWEEP_AGAIN, Cell, require_cells
from lightning_mm.results.per_sample.choose import find_metric, labels_of, same
from lightning_mm.results.per_sample.metric import Labels, Metric
from lightning_mm.results.per_sample.resample import values_of
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robustness import Direction
from lightning_mm.results.rows import SweepRow


@dataclass
class _Measured:
    """Figures of some cells."""

    rows: list[SweepRow] = field(default_factory=list)
    directions: dict[str, Direction] = field(default_factory=dict)
    replicates: dict[Key, NDArray[np.float64]] = field(default_factory=dict)


def rescore(
    result: SweepResult,
    metrics: Sequence[str | Metric],
    replicates: int | None = None,
    bootstrap_seed: int | None = None,
) -> SweepResult:
    """Add metrics to a result, computed from the stored statistics of its samples.

    Args:
        result: A sweep, read with its ``sweep_samples.npz``, or several merged ones.
        metrics: Names such as ``macro_f1``, ``ece`` or ``recall_per_class``, see
            :func:`lightning_mm.results.per_sample.computable`, or metrics of :func:`own_metric`.
        replicates: Draws for intervals, as many as the sweep has by default; 0 for none. Results of several seeds have
            the spread over seeds and no intervals.
        bootstrap_seed: Seed of the draws; that of the sweep by default.

    Returns:
        The result with the new rows behind the old ones, and their replicates.

    Raises:
        LightningMMError: If statistics are missing or do not suffice, or a metric that the sweep has comes out
            differently.

    Example:
        >>> import numpy as np
        >>> from lightning_mm.results import SweepResult, SweepRow
        >>> samples = {"index": np.arange(3), "ssf/rgb/prediction": np.array([0, 1, 1])}
        >>> samples["ssf/rgb/target"] = np.array([0, 1, 0])
        >>> rows = [SweepRow("ssf", "rgb", 1, "accuracy", 2 / 3, 3, 0)]
        >>> sweep = SweepResult(rows, ["rgb"], "accuracy", samples=samples)
        >>> rescore(sweep, ["balanced_accuracy"]).value("ssf", "rgb", "balanced_accuracy")
        0.75
    """
    cells = require_cells(result)
    index = result.samples["index"]
    draws, seed = _draws(result, replicates, bootstrap_seed)
    level = result.bootstrap.level if result.bootstrap else 0.95
    drawn = resample_counts(len(index), draws, seed) if draws else None
    found = _measure(cells, metrics, labels_of(result, cells), drawn, level)
    stored = {(row.method, row.combination, row.metric, row.seed): row.value for row in result.rows}
    new = []
    for row in found.rows:
        known = stored.get((row.method, row.combination, row.metric, row.seed))
        if known is None:
            new.append(row)
        elif not same(known, row.value):
            raise LightningMMError(
                f"{row.metric} of method {row.method!r}, combination {row.combination!r}, seed {row.seed} is "
                f"{known:.6g} in sweep.csv and {row.value:.6g} by the stored statistics: the task computes it in "
                f"another way, or the files were edited; give a function of yours (module.function), or {SWEEP_AGAIN}"
            )
    bootstrap = result.bootstrap
    if drawn is not None:
        bootstrap = Bootstrap(Bootstrap.key_of(index.astype(np.int64), draws, seed), found.replicates, level)
        if result.bootstrap and result.bootstrap.key == bootstrap.key:
            bootstrap.replicates = {**found.replicates, **result.bootstrap.replicates}
    return replace(
        result, rows=[*result.rows, *new], directions={**found.directions, **result.directions}, bootstrap=bootstrap
    )


def restricted(
    result: SweepResult, kept: NDArray[np.bool_], metrics: Sequence[str | Metric], replicates: int = 0
) -> SweepResult:
    """The result on some of its samples, with these metrics.

    Args:
        result: A result with per-sample statistics.
        kept: Which samples, ``Bool[N]``.
        metrics: What to compute.
        replicates: Draws for intervals, of these samples alone; 0 for none, as results of several seeds have.

    Raises:
        LightningMMError: As :func:`rescore`, and if none of the samples counts for any combination.
    """
    whole = require_cells(result)
    places = np.cumsum(kept) - 1
    limited = [cell.limited(kept) for cell in whole]
    cells = [replace(cell, rows=places[cell.rows]) for cell in limited if len(cell.rows)]
    if not cells:
        raise LightningMMError("none of these samples counts for any combination")
    index = result.samples["index"][kept]
    draws = 0 if result.several_seeds else replicates
    drawn = resample_counts(len(index), draws, 0) if draws else None
    found = _measure(cells, metrics, labels_of(result, whole), drawn, 0.95)
    samples = {"index": index}
    if "observed" in result.samples:
        samples["observed"] = result.samples["observed"][kept]
    for cell in cells:
        prefix = f"seed{cell.seed}/{cell.method}/{cell.combination}"
        samples |= {f"{prefix}/{name}": values for name, values in cell.statistics.items()}
    return replace(
        result,
        rows=found.rows,
        primary_metric=found.rows[0].metric,
        directions={**found.directions, **result.directions},
        samples=samples,
        bootstrap=None
        if drawn is None
        else Bootstrap(Bootstrap.key_of(index.astype(np.int64), draws, 0), found.replicates),
    )


def _measure(
    cells: Sequence[Cell],
    metrics: Sequence[str | Metric],
    labels: Labels,
    drawn: NDArray[np.int64] | None,
    level: float,
) -> _Measured:
    """Rows of all cells and metrics, and replicates if there are draws, ``Int[R, N]``."""
    found = _Measured()
    for asked in metrics:
        for cell in cells:
            metric = asked if isinstance(asked, Metric) else find_metric(asked, cell.statistics)
            name = asked.name if isinstance(asked, Metric) else asked
            repeated = {} if drawn is None else values_of(cell, name, metric, labels, drawn)
            for one, value in values_of(cell, name, metric, labels).items():
                found.directions[one] = metric.direction
                low, high = (percentile_interval(repeated[one], level) if one in repeated else None) or (None, None)
                size = 1 + cell.combination.count("+")
                row = SweepRow(cell.method, cell.combination, size, one, float(value[0]), len(cell.rows), cell.seed)
                found.rows.append(replace(row, low=low, high=high))
                if one in repeated:
                    found.replicates[cell.method, cell.combination, one] = repeated[one]
    return found


def _draws(result: SweepResult, replicates: int | None, seed: int | None) -> tuple[int, int]:
    """Number and seed of the draws, by default those of the sweep."""
    if result.several_seeds:
        return 0, 0
    key = result.bootstrap.key if result.bootstrap else ""
    of_sweep = re.match(r"seed=(\d+) replicates=(\d+) ", key)
    stored = (int(of_sweep[2]), int(of_sweep[1])) if of_sweep else (0, 0)
    return stored[0] if replicates is None else replicates, stored[1] if seed is None else seed
