"""Differences of two methods, paired sample by sample: both are computed on the same resamples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_mm.errors import LightningMMError
from lightning_mm.results.bootstrap import Bootstrap, percentile_interval
from lightning_mm.results.figures import Figure
from lightning_mm.results.per_sample.cells import cells_of
from lightning_mm.results.per_sample.resample import resampled
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robust.linear import replicates_of, weighted_sum

MEAN = "mean"
"""Name of the mean over all incomplete combinations that both methods have."""


@dataclass(frozen=True)
class Difference:
    """How much better a method is than another one.

    Args:
        method: The method.
        other: What it is compared with.
        combination: Where; ``mean`` for the mean over all incomplete combinations that both have.
        figure: The difference over the shared seeds, positive is better in either direction of the metric; its interval
            is of the samples, its standard deviation of the seeds.
        better: Share of the resamples in which it is better, ties count half; NaN without resamples.
        n: Samples that count; of ``mean`` the most of its combinations.
    """

    method: str
    other: str
    combination: str
    figure: Figure
    better: float
    n: int


def paired_replicates(result: SweepResult, metric: str, replicates: int = 1000) -> Bootstrap | None:
    """Replicates of all methods whose stored statistics suffice, or those of the sweep; ``None`` if there are neither.

    Args:
        result: A sweep or several merged ones.
        metric: Which metric.
        replicates: How many resamples; 0 for none.
    """
    if not replicates:
        return None
    if result.bootstrap is not None and any(key[2] == metric for key in result.bootstrap.replicates):
        return result.bootstrap
    parts: list[Bootstrap] = []
    for method in dict.fromkeys(cell.method for cell in cells_of(result)):
        try:
            parts.append(resampled(result, metric, [method], replicates=replicates))
        except LightningMMError:
            continue  # its statistics do not suffice for this metric; those of the others do
    if not parts:
        return None
    return replace(parts[0], replicates={key: one for part in parts for key, one in part.replicates.items()})


def differences(
    result: SweepResult,
    other: str,
    methods: Sequence[str] | None = None,
    metric: str | None = None,
    replicates: int = 1000,
) -> list[Difference]:
    """Compare methods with one of them, combination by combination and in the mean.

    Args:
        result: A sweep or several merged ones.
        other: The method to compare with.
        methods: Which methods; by default all others.
        metric: Which metric; the primary one by default.
        replicates: How many resamples; 0 for none.

    Returns:
        Per method one per combination that both have in a shared seed, sizes ascending, and then the mean.

    Raises:
        LightningMMError: If there is no such method or metric.
    """
    metric = result.require_metric(metric)
    known = [method for method in result.methods if result.figures(method, metric).values]
    for method in (other, *(methods or ())):
        if method not in known:
            raise LightningMMError(f"no figures of {metric} of method {method!r}; this sweep has {known}")
    found: list[Difference] = []
    every = paired_replicates(result, metric, replicates)
    for method in methods or [method for method in known if method != other]:
        both = [result.figures(one, metric) for one in (method, other)]
        mine, theirs = ({name for own in one.values.values() for name in own} for one in both)
        shared = [name for name in result.combinations if name in mine and name in theirs]
        incomplete = [name for name in shared if name != result.full_combination]
        wanted = [(name, [name]) for name in shared] + ([(MEAN, incomplete)] if incomplete else [])
        seeds = {seed for one in both if not one.is_constant for seed in one.values}
        drawn: dict[tuple[int, ...], Bootstrap | None] = {tuple(sorted(seeds)): every}
        for name, over in wanted:
            figure = weighted_sum(result, metric, _terms(result, metric, method, other, over))
            if figure.seeds not in drawn and every is not None:
                # replicates are means over the seeds of a method: only the shared ones are compared
                drawn[figure.seeds] = _of_seeds(result, metric, (method, other), figure.seeds, replicates)
            found.append(_difference(result, metric, method, other, name, over, figure, drawn.get(figure.seeds)))
    return found


def _of_seeds(
    result: SweepResult, metric: str, methods: Sequence[str], seeds: Sequence[int], replicates: int
) -> Bootstrap | None:
    if not seeds or not all(cells_of(result, [method]) for method in methods):
        return None
    return resampled(result, metric, list(methods), seeds=seeds, replicates=replicates)


def _terms(
    result: SweepResult, metric: str, method: str, other: str, over: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The mean difference over combinations as a weighted sum, positive if better."""
    share = (1.0 if result.direction(metric) == "max" else -1.0) / len(over)
    return {method: dict.fromkeys(over, share), other: dict.fromkeys(over, -share)}


def _difference(
    result: SweepResult,
    metric: str,
    method: str,
    other: str,
    name: str,
    over: Sequence[str],
    figure: Figure,
    bootstrap: Bootstrap | None,
) -> Difference:
    better, interval = math.nan, None
    if bootstrap is not None:
        drawn_terms, constant = _terms(result, metric, method, other, over), 0.0
        for one in (method, other):
            if (one, over[0], metric) not in bootstrap.replicates and result.figures(one, metric).is_constant:
                constant += sum(drawn_terms.pop(one).values()) * result.value(one, over[0], metric)
        drawn = replicates_of(drawn_terms, metric, 0.0, bootstrap)
        if drawn is not None and np.isfinite(drawn).any():
            finite = drawn[np.isfinite(drawn)] + constant
            better = float(np.mean(finite > 0) + np.mean(finite == 0) / 2)
            interval = percentile_interval(finite, bootstrap.level)
    n = max(row.n for one in over for row in result.select(method, one, metric))
    return Difference(method, other, name, Figure(figure.value, figure.std, interval, figure.seeds), better, n)
