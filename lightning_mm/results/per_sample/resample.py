"""Metrics of cells and of their resamples, and the paired bootstrap of results with any number of seeds.

Shapes: N samples of the split, n of them count for a combination, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_mm.results.bootstrap import Bootstrap, resample_counts
from lightning_mm.results.per_sample.cells import Cell, require_cells
from lightning_mm.results.per_sample.choose import find_metric, labels_of
from lightning_mm.results.per_sample.metric import Labels, Metric, Values
from lightning_mm.results.result import SweepResult

AT_ONCE = 20_000_000
"""The most weights (resamples times samples) that are held at once."""


def values_of(cell: Cell, name: str, metric: Metric, labels: Labels, drawn: NDArray[np.int64] | None = None) -> Values:
    """A metric of a cell, or of its resamples.

    Args:
        cell: Its statistics.
        name: The name that the metric was asked for.
        metric: How it is computed.
        labels: What the statistics do not say.
        drawn: How often each sample of the split is drawn, ``Int[R, N]``; by default once, with R = 1.

    Returns:
        Name to ``Float[R]``; NaN for resamples without a sample that counts.
    """
    if drawn is None:
        return metric.values(cell.statistics, np.ones((1, len(cell.rows))), labels, name)
    step = max(1, AT_ONCE // max(1, len(cell.rows)))
    parts = [
        metric.values(cell.statistics, drawn[start : start + step, cell.rows].astype(np.float64), labels, name)
        for start in range(0, len(drawn), step)
    ]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def resampled(
    result: SweepResult,
    metric: str,
    methods: Sequence[str] | None = None,
    combinations: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    replicates: int = 1000,
    bootstrap_seed: int = 0,
    level: float = 0.95,
) -> Bootstrap:
    """Draw the samples again and again and compute a metric of all methods and combinations on each draw.

    Of several seeds each replicate is the mean over them, so that an interval says how far the figure depends on the
    samples; the spread over seeds says how far on the training.

    Args:
        result: A result with per-sample statistics.
        metric: Which metric.
        methods: These only.
        combinations: These only.
        seeds: The mean is over these; by default over all that a method has.
        replicates: How many draws R.
        bootstrap_seed: Seed of the draws; 0 draws as the sweep did.
        level: Coverage of the intervals.

    Returns:
        Replicates under (method, combination, metric); all are of the same draws, so that their differences are paired.

    Raises:
        LightningMMError: If statistics are missing or do not suffice.
    """
    cells = require_cells(result, methods)
    labels, index = labels_of(result, cells), result.samples["index"]
    drawn = resample_counts(len(index), replicates, bootstrap_seed)
    wanted, chosen = None if combinations is None else set(combinations), None if seeds is None else set(seeds)
    found: dict[tuple[str, str, str], list[NDArray[np.float64]]] = {}
    for cell in cells:
        if (wanted is not None and cell.combination not in wanted) or (chosen is not None and cell.seed not in chosen):
            continue
        values = values_of(cell, metric, find_metric(metric, cell.statistics), labels, drawn)
        for name, one in values.items():
            found.setdefault((cell.method, cell.combination, name), []).append(one)
    means = {key: np.mean(np.stack(own), axis=0) for key, own in found.items()}
    return Bootstrap(Bootstrap.key_of(index.astype(np.int64), replicates, bootstrap_seed), means, level)
