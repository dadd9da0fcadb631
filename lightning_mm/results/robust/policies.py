"""What methods reach if a policy decides which modalities each sample has, from the stored statistics of a sweep.

Shapes: N samples, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import SEPARATOR
from lightning_mm.results import seeds as by_seed
from lightning_mm.results.figures import Figure
from lightning_mm.results.per_sample.cells import SWEEP_AGAIN, Cell, require_cells
from lightning_mm.results.per_sample.choose import find_metric, labels_of
from lightning_mm.results.per_sample.metric import Labels
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robust.grid import Grid
from lightning_mm.results.texts import is_percent

MASKS = "available."
"""Begin of the key in ``SweepResult.samples`` of what a policy drew; its name follows."""


def masks_of(result: SweepResult) -> dict[str, NDArray[np.bool_]]:
    """Name of a policy to what it drew for the samples of the sweep, ``Bool[N, M]``.

    Raises:
        LightningMMError: If it does not fit the samples.
    """
    size = len(result.samples.get("index", ())), len(result.modalities)
    found = {}
    for key, values in result.samples.items():
        if key.startswith(MASKS):
            if values.shape != size:
                raise LightningMMError(
                    f"sweep_samples.npz: expected {key} Bool[{size[0]}, {size[1]}], got {values.shape}; it is damaged "
                    f"or of other modalities; {SWEEP_AGAIN}"
                )
            found[key.removeprefix(MASKS)] = values.astype(bool)
    return found


def policy_figures(
    result: SweepResult, metric: str | None = None, masks: Mapping[str, NDArray[np.bool_]] | None = None
) -> Grid | None:
    """Compute a metric of every method under every policy; no network runs.

    A sample counts with what the sweep found for the combination that the policy leaves of what it observed; if it
    leaves nothing, of all that it observed. That is what a test under this policy computes.

    Args:
        result: A sweep of all combinations that the policies draw, read with its ``sweep_samples.npz``.
        metric: A metric that the stored statistics suffice for; the primary one by default.
        masks: Name of a policy to ``Bool[N, M]``; those that the sweep drew by default.

    Returns:
        One row per method; NaN where it was not swept on all combinations that are needed. None if there is no policy.

    Raises:
        LightningMMError: If statistics are missing or do not suffice for the metric.
    """
    masks = masks_of(result) if masks is None else masks
    if not masks:
        return None
    metric = metric or result.primary_metric
    cells: dict[tuple[str, int], dict[str, Cell]] = {}
    for cell in require_cells(result):
        cells.setdefault((cell.method, cell.seed), {})[cell.combination] = cell
    labels = labels_of(result, [cell for own in cells.values() for cell in own.values()])
    size = len(result.samples["index"]), len(result.modalities)
    observed = result.samples.get("observed", np.ones(size)).astype(bool)
    drawn = {name: _combinations(mask, observed, result.modalities) for name, mask in masks.items()}
    rows: dict[str, tuple[Figure, ...]] = {}
    for method in dict.fromkeys(method for method, _ in cells):
        own = {seed: found for (name, seed), found in cells.items() if name == method}
        rows[method] = tuple(_figure(own, wanted, metric, labels) for wanted in drawn.values())
    notes = [f"every sample with the modalities that the policy drew for it; n = {size[0]}"]
    percent, direction = is_percent(result, metric), result.direction(metric)
    return Grid("under policies", "policy", metric, tuple(masks), rows, percent, direction, tuple(notes))


def _combinations(
    available: NDArray[np.bool_], observed: NDArray[np.bool_], modalities: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """Combination to the positions of the samples that have it."""
    left = available & observed
    left = np.where(left.any(axis=1, keepdims=True), left, observed)
    kinds, kind = np.unique(left, axis=0, return_inverse=True)
    names = [SEPARATOR.join(name for name, has in zip(modalities, row) if has) for row in kinds]
    return {name: np.flatnonzero(kind.reshape(-1) == number) for number, name in enumerate(names)}


def _figure(
    cells: Mapping[int, Mapping[str, Cell]], wanted: Mapping[str, NDArray[np.int64]], metric: str, labels: Labels
) -> Figure:
    """The mean over the seeds that have all combinations that are needed."""
    values = {}
    for seed, own in cells.items():
        if wanted.keys() <= own.keys():
            parts = [_part(own[name], rows) for name, rows in wanted.items()]
            statistics = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            weights = np.ones((1, sum(map(len, wanted.values()))))
            (value,) = find_metric(metric, statistics).values(statistics, weights, labels, metric).values()
            values[seed] = float(value[0])
    mean = float(np.mean(list(values.values()))) if values else math.nan
    return Figure(mean, by_seed.spread(list(values.values())), None, tuple(values))


def _part(cell: Cell, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The statistics of some samples, all of which count for the combination of the cell."""
    places = np.searchsorted(cell.rows, rows)
    return {name: values[places] for name, values in cell.statistics.items()}
