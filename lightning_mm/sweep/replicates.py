"""Metrics of bootstrap replicates, computed from per-sample statistics.

Shapes: n samples count for one combination, R replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def replicate_metrics(
    metrics_from: Callable[[dict[str, Tensor]], dict[str, float]],
    statistics: Mapping[str, Tensor],
    counts: NDArray[np.int64],
    summable: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """Compute the metrics of every replicate of a bootstrap.

    Args:
        metrics_from: Computes metrics from the statistics of any set of samples.
        statistics: Per-sample statistics ``{name: [n, ...]}``.
        counts: How often each of these samples is drawn, ``Int[R, n]``.
        summable: Whether the metrics depend only on the sums over samples (as with confusion matrices); the sums of all
            replicates are then one matrix product, which is much faster for large statistics.

    Returns:
        Metric to ``Float[R]``; NaN for replicates with none of these samples.
    """
    rows: list[dict[str, float]] = []
    if summable:
        weights = torch.from_numpy(counts).double()
        sums = {
            name: (weights @ value.reshape(len(value), -1).double()).to(value.dtype).reshape(-1, 1, *value.shape[1:])
            for name, value in statistics.items()
        }
    for replicate, drawn in enumerate(counts):
        if not drawn.any():
            rows.append({})
        elif summable:
            rows.append(metrics_from({name: value[replicate] for name, value in sums.items()}))
        else:
            picked = torch.from_numpy(np.repeat(np.arange(len(drawn)), drawn))
            rows.append(metrics_from({name: value[picked] for name, value in statistics.items()}))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names}
