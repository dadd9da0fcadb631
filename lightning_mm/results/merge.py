"""Several sweeps (of other methods, seeds or dedicated networks) as one result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.result import SweepResult, SweepRow
from lightning_mm.results.seeds import keys_with_seed

Cost = TypeVar("Cost")


def merge(results: Sequence[SweepResult]) -> SweepResult:
    """Put the methods (or seeds) of several sweeps of the same samples side by side.

    Parameters and seconds of one method and one seed add up over sweeps of disjoint combinations (each is taken for a
    network of its own); over seeds they do not: parameters are those of one seed, seconds the mean. Merge all parts at
    once rather than in steps: a merged result knows costs per method, no longer per seed.

    Where a method has several seeds, per-sample statistics are kept under ``seed<k>/<method>/<combination>/<name>``,
    and there are no bootstrap replicates: the spread over seeds stands for their intervals.

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
    merged = SweepResult(
        rows=list(rows.values()),
        modalities=names,
        primary_metric=largest.primary_metric,
        directions={metric: way for result in reversed(results) for metric, way in result.directions.items()},
        parameters={
            method: next(iter(counts)) for method, counts in _costs(results, _parameters, _add_counts, names).items()
        },
        config=results[0].config if len(results) == 1 else {"merged": [result.config for result in results]},
        seconds={
            method: float(np.mean(seconds))
            for method, seconds in _costs(results, lambda result: result.seconds, lambda a, b: a + b, names).items()
        },
        notes=list(dict.fromkeys(note for result in results for note in result.notes)),
    )
    merged.samples = _merge_samples(results, merged.several_seeds)
    merged.bootstrap = None if merged.several_seeds else _merge_replicates(results)
    return merged


def constant_rows(method: str, value: float, metric: str, like: SweepResult) -> list[SweepRow]:
    """Rows of a method that says the same whatever is available, e.g. ``majority``, the share of the commonest label.

    Args:
        method: The name of its column.
        value: What stands for every combination.
        metric: Whose value it is.
        like: The result that the rows are to stand in; gives combinations and numbers of samples.

    Raises:
        LightningMMError: If ``like`` has no figure of this metric.

    Example:
        >>> from lightning_mm.sweep import SweepResult, SweepRow, constant_rows
        >>> result = SweepResult([SweepRow("zero_fill", "rgb", 1, "accuracy", 0.7, n=9, seed=0)], ["rgb"], "accuracy")
        >>> result.rows += constant_rows("majority", 0.5, "accuracy", like=result)
        >>> result.value("majority", "rgb")
        0.5
    """
    known: dict[str, SweepRow] = {}
    for row in sorted(like.rows, key=lambda row: row.seed):
        if row.metric == metric:
            known.setdefault(row.combination, row)
    if not known:
        raise LightningMMError(f"no figures of metric {metric!r} to stand beside; this sweep has {like.metrics}")
    # One seed only: a constant has no spread.
    seed = min(row.seed for row in known.values())
    return [
        replace(known[name], method=method, value=float(value), seed=seed, low=None, high=None)
        for name in like.combinations
        if name in known
    ]


def _parameters(result: SweepResult) -> Mapping[str, dict[str, int]]:
    return result.parameters


def _add_counts(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Counts of two networks of a method together.

    Networks that are trained as a whole are all there is and add up; one that is only added to is shared, and so is
    what a single combination adds.
    """
    whole = all(counts.get("trained", 0) >= counts.get("base", 0) for counts in (one, other))
    added = ("trained", "base") if whole else ("trained",)
    return {
        key: one.get(key, 0) + other.get(key, 0) if key in added else max(one.get(key, 0), other.get(key, 0))
        for key in dict.fromkeys([*one, *other])
    }


def _costs(
    results: Sequence[SweepResult],
    costs: Callable[[SweepResult], Mapping[str, Cost]],
    add: Callable[[Cost, Cost], Cost],
    names: Sequence[str],
) -> dict[str, list[Cost]]:
    """What each method costs in each of the seeds that cover the most combinations; seeds that lack some are left out.

    Args:
        results: Sweeps, each of some combinations of some methods and seeds.
        costs: Method to cost of one sweep.
        add: The cost of two networks together.
        names: Modalities in the order of the merged result.
    """
    modalities = Modalities(names)
    found: dict[tuple[str, int], tuple[set[str], Cost]] = {}
    for result in results:
        own = costs(result)
        parts: dict[tuple[str, int], set[str]] = {}
        for row in result.rows:
            if row.method in own:
                parts.setdefault((row.method, row.seed), set()).add(row.combination)
        for (method, seed), written in parts.items():
            combinations = {modalities.canonical(combination) for combination in written}
            if (method, seed) not in found:
                found[method, seed] = combinations, own[method]
            else:
                covered, cost = found[method, seed]
                if covered.isdisjoint(combinations):
                    found[method, seed] = covered | combinations, add(cost, own[method])
    most: dict[str, int] = {}
    for (method, _), (covered, _) in found.items():
        most[method] = max(most.get(method, 0), len(covered))
    return {
        method: [cost for (name, _), (covered, cost) in found.items() if name == method and len(covered) == count]
        for method, count in most.items()
    }


def _merge_samples(results: Sequence[SweepResult], several_seeds: bool) -> dict[str, NDArray[Any]]:
    """Statistics of all sweeps, if they are of the same samples; ``observed`` is the one with most columns."""
    if any("index" not in result.samples for result in results):
        return {}
    first = results[0].samples["index"]
    if any(not np.array_equal(first, result.samples["index"]) for result in results):
        return {}
    largest = max(results, key=lambda result: len(result.modalities))
    merged = {key: value for key, value in largest.samples.items() if "/" not in key}
    for result in results:
        keys = keys_with_seed(result) if several_seeds else {key: key for key in result.samples if "/" in key}
        for key, name in keys.items():
            merged.setdefault(name, result.samples[key])
    return merged


def _merge_replicates(results: Sequence[SweepResult]) -> Bootstrap | None:
    """Replicates of all sweeps, if they come from the same resampling."""
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
