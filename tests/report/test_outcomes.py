"""Which samples a method loses in a combination: against a loop over samples, for every kind of task."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lightning_mm.report.outcomes import outcome_table, outcomes
from lightning_mm.results import SweepResult, SweepRow

COUNT, NAMES = 14, ["rgb", "depth"]
COMBINATIONS = ["rgb", "depth", "rgb+depth"]
RNG = np.random.default_rng(0)


def label(kind: str) -> dict[str, Any]:
    """Statistics of the samples of one cell."""
    target = np.arange(COUNT) % 3
    if kind == "classes":
        return {"prediction": np.where(RNG.random(COUNT) < 0.6, target, 3), "target": target}
    if kind == "numbers":
        return {"prediction": (target + RNG.normal(0, 0.5, COUNT)).astype(np.float32), "target": target.astype(float)}
    return {"confusion": RNG.integers(0, 4, (COUNT, 2, 2))}


def score(kind: str, own: dict[str, Any], sample: int) -> float:
    """More is better."""
    if kind == "classes":
        return float(own["prediction"][sample] == own["target"][sample])
    if kind == "numbers":
        return -abs(float(own["prediction"][sample]) - float(own["target"][sample]))
    ious = []
    for one in range(2):
        matrix = own["confusion"][sample]
        either = matrix[one].sum() + matrix[:, one].sum() - matrix[one, one]
        if either:
            ious.append(matrix[one, one] / either)
    return float(np.mean(ious)) if ious else 0.0


def swept(kind: str, gaps: bool) -> SweepResult:
    """Two methods, of which one was not run on the full combination; depth is missing in some samples if ``gaps``."""
    observed = np.ones((COUNT, 2), bool)
    observed[1::3, 1] = not gaps
    samples: dict[str, Any] = {"index": np.arange(COUNT) + 100, "observed": observed}
    rows = []
    for method in ("zero_fill", "dedicated"):
        for name in COMBINATIONS[: 2 if method == "dedicated" else 3]:
            counts = observed[:, [NAMES.index(one) for one in name.split("+")]].all(1)
            rows.append(SweepRow(method, name, name.count("+") + 1, "figure", 0.5, int(counts.sum()), 0))
            for key, values in label(kind).items():
                samples[f"{method}/{name}/{key}"] = values[counts]
    return SweepResult(rows, NAMES, "figure", {}, {}, {}, samples)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", ["classes", "numbers", "maps"])
def test_equal_to_a_loop_over_samples(kind: str, gaps: bool) -> None:
    result = swept(kind, gaps)
    found = outcomes(result)
    assert found is not None
    assert found.kind == {"classes": "right", "numbers": "error", "maps": "iou"}[kind]
    labels = result.samples.get("zero_fill/rgb/target", np.zeros(1))
    least = {"classes": 0.5, "numbers": 0.1 * labels.std(), "maps": 0.01}[kind]
    observed = result.samples["observed"]
    for method, combination in [("zero_fill", "rgb"), ("zero_fill", "depth"), ("dedicated", "depth")]:
        lost, gained, compared = {}, {}, 0
        for sample in range(COUNT):
            present = [one for one in combination.split("+") if observed[sample, NAMES.index(one)]]
            if len(present) < len(combination.split("+")) or not observed[sample].all():
                continue  # it does not count here, or not in the full combination
            compared += 1
            change = []
            for one, name in (("zero_fill", "rgb+depth"), (method, combination)):
                columns = [NAMES.index(part) for part in name.split("+")]
                place = int(observed[:sample, columns].all(1).sum())
                prefix = f"{one}/{name}/"
                own = {k.removeprefix(prefix): v for k, v in result.samples.items() if k.startswith(prefix)}
                change.append(score(kind, own, place))
            by = change[1] - change[0]
            if by <= -least:
                lost[sample + 100] = -by
            elif by >= least:
                gained[sample + 100] = by
        cell = found.cells[method, combination]
        assert (cell["n"], cell["lost"], cell["gained"]) == (compared, len(lost), len(gained))
        assert dict(cell["lost_samples"]) == pytest.approx(lost, abs=1e-4)
        assert dict(cell["gained_samples"]) == pytest.approx(gained, abs=1e-4)
        assert cell["against"] == ("rgb+depth" if method == "zero_fill" else "zero_fill, rgb+depth")
    table = outcome_table(result, found)
    cell = found.cells["zero_fill", "rgb"]
    assert table.rows[0][1].text == f"−{cell['lost']:g} +{cell['gained']:g}"


def test_statistics_of_another_kind_have_no_outcomes() -> None:
    result = swept("classes", gaps=False)
    for key in list(result.samples):
        if key.endswith("/prediction"):
            result.samples[key] = result.samples[key][:3]
    assert outcomes(result) is None
    result.samples = {}
    assert outcomes(result) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
def test_predictions_that_are_not_finite_are_the_worst_ones(value: float) -> None:
    result, seeds = swept("numbers", gaps=False), {}
    for seed in (0, 1):
        for key, values in result.samples.items():
            own = values.astype(float)
            if key == "zero_fill/rgb/prediction" or (seed and key == "zero_fill/rgb+depth/prediction"):
                own[4] = value
            seeds[f"seed{seed}/{key}" if "/" in key else key] = own if "/" in key else values
    result.samples = seeds
    found = outcomes(result)
    assert found is not None
    assert found.cells["zero_fill", "rgb+depth"]["lost_samples"][0][0] == 104
    assert found.cells["zero_fill", "rgb"]["lost_samples"][0][0] == 104
    json.dumps(list(found.cells.values()), allow_nan=False)
