"""Robustness of one method: areas, relative and effective robustness, and expectations under given availability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from lightning_mm.modality_names import MOST_LISTED, ModalityNames
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.figures import Figure
from lightning_mm.results.result import SweepResult
from lightning_mm.results.robust.expected import Scenario
from lightning_mm.results.robust.linear import weighted_sum

UNKNOWN = Figure(math.nan, math.nan, None, ())


@dataclass(frozen=True)
class Robustness:
    """Figures of one method; NaN if it lacks combinations that they need.

    The curve of a method is its mean by the number of missing modalities, 0 to M - 1.

    Args:
        method: The method.
        metric: The metric.
        area: Area under the curve over its length, in the unit of the metric.
        drop_area: Area under the drop, full minus curve, over its length; positive is a loss in either direction.
        relative: Relative robustness of MultiBench: area under the curve over the share of missing modalities, 0 to
            (M - 1) / M.
        effective: Effective robustness of MultiBench: sum over the numbers of missing modalities of the height above
            the curve of the reference, moved to start at the same value; positive is better in either direction.
        reference: The reference method; empty if there is none.
        expected: Name of a scenario to the expectation of the metric.
    """

    method: str
    metric: str
    area: Figure
    drop_area: Figure
    relative: Figure
    effective: Figure
    reference: str
    expected: dict[str, Figure]


def robustness(
    result: SweepResult,
    method: str,
    metric: str | None = None,
    reference: str = "",
    scenarios: Sequence[Scenario] = (),
    bootstrap: Bootstrap | None = None,
) -> Robustness:
    """Compute all figures of robustness of a method.

    Args:
        result: A sweep, of all combinations for everything but scenarios that never need some.
        method: Which method.
        metric: Which metric; the primary one by default.
        reference: The method that effective robustness compares with; late fusion in MultiBench.
        scenarios: Availabilities to expect.
        bootstrap: Replicates for intervals, see :func:`lightning_mm.results.per_sample.resampled`; those of the sweep
            by default.

    Raises:
        LightningMMError: If the result has no such metric or a scenario is of other modalities.

    Reference:
        MultiBench (arXiv 2107.07502), section 3.3.

    Example:
        >>> from lightning_mm.results import SweepResult, SweepRow
        >>> values = {"rgb": 0.6, "depth": 0.4, "rgb+depth": 0.9}
        >>> rows = [SweepRow("ssf", name, 1 + name.count("+"), "accuracy", v, 9, 0) for name, v in values.items()]
        >>> found = robustness(SweepResult(rows, ["rgb", "depth"], "accuracy"), "ssf")
        >>> round(found.area.value, 3), round(found.drop_area.value, 3), round(found.relative.value, 3)
        (0.7, 0.2, 0.35)
    """
    metric = result.require_metric(metric)
    own, names = bootstrap or result.bootstrap, ModalityNames(result.modalities)
    expected = {
        one.name: weighted_sum(result, metric, {method: one.weights(names)}, bootstrap=own) for one in scenarios
    }
    if len(names) > MOST_LISTED:
        return Robustness(method, metric, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, reference, expected)
    sign = 1.0 if result.direction(metric) == "max" else -1.0
    steps = len(names)
    curve = [*([0.5, *[1.0] * (steps - 2), 0.5] if steps > 1 else [1.0])]
    area = _on_curve(names, [weight / max(1, steps - 1) for weight in curve])
    lost = {name: -sign * weight for name, weight in area.items()}
    lost[names.full] += sign
    # a single level has no area
    relative = _on_curve(names, [weight / steps for weight in curve] if steps > 1 else [0.0])
    effective = UNKNOWN
    if reference:
        above = _on_curve(names, [sign * (1 - steps), *[sign] * (steps - 1)])
        below = {name: -weight for name, weight in above.items()}
        terms = {method: above, reference: below} if method != reference else {method: dict.fromkeys(above, 0.0)}
        effective = weighted_sum(result, metric, terms, bootstrap=own)
    return Robustness(
        method,
        metric,
        weighted_sum(result, metric, {method: area}, bootstrap=own),
        weighted_sum(result, metric, {method: lost}, bootstrap=own),
        weighted_sum(result, metric, {method: relative}, bootstrap=own),
        effective,
        reference,
        expected,
    )


def _on_curve(names: ModalityNames, weights: Sequence[float]) -> dict[str, float]:
    """Weights of the points of a curve, none missing first, as weights of combinations."""
    found: dict[str, float] = {}
    groups = [list(group) for _, group in groupby(names.combinations(), lambda name: len(names.parse(name)))]
    for group, weight in zip(reversed(groups), weights):
        found |= dict.fromkeys(group, weight / len(group))
    return found
