"""Several sweeps (of other methods, seeds or dedicated networks) as one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.sweep.bootstrap import Bootstrap
from lightning_mm.sweep.result import DEDICATED, SweepResult, SweepRow


def merge(results: Sequence[SweepResult]) -> SweepResult:
    """Put the methods (or seeds) of several sweeps of the same samples side by side.

    Args:
        results: Sweeps of the same split; those of dedicated networks may know fewer modalities.

    Raises:
        LightningMMError: If there is nothing to merge, the same figure comes with two values, or a combination has
            different numbers of samples (then the figures cannot be compared).
    """
    if not results:
        raise LightningMMError("nothing to merge: expected one or more sweeps, got none")
    splits = sorted({str(result.config["split"]) for result in results if "split" in result.config})
    if len(splits) > 1:
        raise LightningMMError(f"these sweeps are of different splits ({', '.join(splits)}) and cannot be compared")
    largest = max(results, key=lambda result: len(result.modalities))
    names = list(dict.fromkeys([*largest.modalities, *(name for result in results for name in result.modalities)]))
    modalities = Modalities(names)
    rows: dict[tuple[str, str, str, int], SweepRow] = {}
    counts: dict[str, tuple[str, int]] = {}
    for result in results:
        for row in result.rows:
            row = replace(row, combination=modalities.canonical(row.combination))
            key = (row.method, row.combination, row.metric, row.seed)
            if key in rows and not np.isclose(rows[key].value, row.value, rtol=0, atol=1e-9, equal_nan=True):
                raise LightningMMError(
                    f"two values for method {row.method!r}, combination {row.combination!r}, metric {row.metric!r}, "
                    f"seed {row.seed}: {rows[key].value:.6g} and {row.value:.6g}; give one of the sweeps another "
                    f"method name or seed, or limit its combinations"
                )
            method, n = counts.setdefault(row.combination, (row.method, row.n))
            if n != row.n:
                raise LightningMMError(
                    f"combination {row.combination!r} was measured on {n} samples by {method!r} and on {row.n} by "
                    f"{row.method!r}: these figures cannot be compared; sweep both on the same split"
                )
            rows.setdefault(key, row)
    return SweepResult(
        rows=list(rows.values()),
        modalities=names,
        primary_metric=largest.primary_metric,
        directions={metric: way for result in reversed(results) for metric, way in result.directions.items()},
        parameters=_merge_parameters(results),
        config=results[0].config if len(results) == 1 else {"merged": [result.config for result in results]},
        samples=_merge_samples(results),
        bootstrap=_merge_replicates(results),
    )


def _merge_parameters(results: Sequence[SweepResult]) -> dict[str, dict[str, int]]:
    """Counts of each method; of dedicated networks the sum, one network for every combination (not every seed)."""
    found: dict[str, dict[str, int]] = {}
    counted: set[str] = set()
    for result in results:
        for method, numbers in result.parameters.items():
            combinations = result.values(DEDICATED).keys() if method == DEDICATED else ()
            if method not in found:
                found[method] = dict(numbers)
            elif combinations and counted.isdisjoint(combinations):
                found[method] = {key: found[method].get(key, 0) + count for key, count in numbers.items()}
            counted.update(combinations)
    return found


def _merge_samples(results: Sequence[SweepResult]) -> dict[str, NDArray[Any]]:
    """Statistics of all sweeps, if they are of the same samples; ``observed`` is the one with most columns."""
    if any("index" not in result.samples for result in results):
        return {}
    first = results[0].samples["index"]
    if any(not np.array_equal(first, result.samples["index"]) for result in results):
        return {}
    ordered = sorted(results, key=lambda result: len(result.modalities))
    return {key: value for result in ordered for key, value in result.samples.items()}


def _merge_replicates(results: Sequence[SweepResult]) -> Bootstrap | None:
    """Replicates of all sweeps, if they come from the same resampling and no figure has several seeds."""
    merged: Bootstrap | None = None
    for result in results:
        own = result.bootstrap
        if own is None or (merged is not None and own.key != merged.key):
            return None
        if merged is None:
            merged = replace(own, replicates=dict(own.replicates))
        for figure, values in own.replicates.items():
            if not np.array_equal(merged.replicates.setdefault(figure, values), values, equal_nan=True):
                return None
    return merged
