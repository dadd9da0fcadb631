"""Curves of a metric over the share of samples that have a modality, from the stored statistics of a sweep.

Shapes: N samples that have all modalities, S shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError, check_fraction
from lightning_mm.modality_names import SEPARATOR, ModalityNames
from lightning_mm.results.per_sample.cells import Cell, require_cells
from lightning_mm.results.per_sample.choose import find_metric, labels_of
from lightning_mm.results.per_sample.metric import Labels
from lightning_mm.results.result import SweepResult

SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Shares of the samples that have the modality."""


@dataclass(frozen=True)
class PresenceCurve:
    """A metric of one method and seed when one modality is in a share of the samples and all others are in all.

    Args:
        method: The method.
        seed: Seed of its training.
        modality: The modality that only a share of the samples has.
        metric: The metric.
        shares: The shares, ``[S]``.
        values: The metric at each, ``[S]``.
    """

    method: str
    seed: int
    modality: str
    metric: str
    shares: tuple[float, ...]
    values: tuple[float, ...]


def presence_curves(
    result: SweepResult, metric: str | None = None, shares: Sequence[float] = SHARES, seed: int = 0
) -> list[PresenceCurve]:
    """Compute the curves of every method, seed and modality; no network runs.

    A sample that has the modality counts with what the sweep found for the full combination, another one with the
    combination without it. The samples are drawn once for a modality: those that have it at 10 % have it at 30 % too,
    and the number of samples is the share, rounded.

    Args:
        result: A sweep of all modalities and of all but one, read with its ``sweep_samples.npz``.
        metric: A metric that the stored statistics suffice for; the primary one by default.
        shares: Between 0 and 1.
        seed: Seed of the draw.

    Returns:
        One curve per method and seed that was swept on the combinations it needs, and modality.

    Raises:
        LightningMMError: If a share is none, statistics are missing, there is one modality only, or no method was swept
            on the combinations that a curve needs.

    Reference:
        The protocol of arXiv 2408.07445, table I: one modality complete, the other one in 30 % of the test samples.
    """
    for share in shares:
        check_fraction("shares", share)
    names, metric = ModalityNames(result.modalities), metric or result.primary_metric
    cells = {cell.key: cell for cell in require_cells(result)}
    labels = labels_of(result, [*cells.values()])
    found = []
    for (method, combination, trained), full in cells.items():
        if combination != names.full:
            continue
        for column, modality in enumerate(names):
            without = cells.get((method, SEPARATOR.join(name for name in names if name != modality), trained))
            if without is not None:
                rank = np.random.default_rng([seed % 2**64, column]).permutation(len(full.rows))
                values = [_value(full, without, rank < round(share * len(rank)), metric, labels) for share in shares]
                found.append(PresenceCurve(method, trained, modality, metric, tuple(shares), tuple(values)))
    if not found:
        raise LightningMMError(
            "presence_curves: expected a method that was swept on all modalities and on all but one; sweep all "
            f"combinations of {list(names)}"
        )
    return found


def presence_table(curves: Sequence[PresenceCurve]) -> str:
    """Write curves of the same shares as a Markdown table in percent, with the mean over seeds."""
    shares = curves[0].shares
    lines = ["| method | modality | " + " | ".join(f"{share:.0%}" for share in shares) + " |"]
    lines.append("|---|---|" + "---|" * len(shares))
    groups: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for curve in curves:
        groups.setdefault((curve.method, curve.modality), []).append(curve.values)
    for (method, modality), values in groups.items():
        means = np.mean(values, axis=0)
        lines.append(f"| {method} | {modality} | " + " | ".join(f"{100 * mean:.1f}" for mean in means) + " |")
    return "\n".join(lines) + "\n"


def _value(full: Cell, without: Cell, present: NDArray[np.bool_], metric: str, labels: Labels) -> float:
    """The metric of the samples of ``full``, taken from it where the modality is present and else from ``without``."""
    places = np.searchsorted(without.rows, full.rows)  # every sample with all modalities counts there too
    statistics = {}
    for name, values in full.statistics.items():
        other = without.statistics[name][places]
        statistics[name] = np.where(present.reshape(-1, *[1] * (values.ndim - 1)), values, other)
    weights = np.ones((1, len(full.rows)))
    (value,) = find_metric(metric, statistics).values(statistics, weights, labels, metric).values()
    return float(value[0])
