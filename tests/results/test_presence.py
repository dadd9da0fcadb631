"""Curves over the share of samples that have a modality: nested draws, ends that are the sweep's own values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_mm.errors import LightningMMError
from lightning_mm.results import SweepResult, SweepRow
from lightning_mm.results.robust import presence_curves, presence_table

SIZE = 40


def result(combinations: tuple[str, ...] = ("a", "b", "a+b"), observed: bool = False) -> SweepResult:
    rng = np.random.default_rng(0)
    target, samples, rows = rng.integers(0, 3, SIZE), {"index": np.arange(SIZE)}, []
    there = rng.random((SIZE, 2)) < 0.8 if observed else np.ones((SIZE, 2), dtype=bool)
    samples["observed"] = there
    for combination in combinations:
        keep = there[:, ["ab".index(name) for name in combination.split("+")]].all(1)
        wrong = rng.random(SIZE) < {"a": 0.5, "b": 0.3, "a+b": 0.1}[combination]
        samples[f"net/{combination}/prediction"] = np.where(wrong, (target + 1) % 3, target)[keep]
        samples[f"net/{combination}/target"] = target[keep]
        value = float((~wrong)[keep].mean())
        rows.append(SweepRow("net", combination, combination.count("+") + 1, "accuracy", value, int(keep.sum()), 0))
    return SweepResult(rows, ["a", "b"], "accuracy", samples=samples)


def test_the_ends_are_the_values_of_the_sweep_and_steps_are_single_samples() -> None:
    sweep = result()
    curves = {curve.modality: curve for curve in presence_curves(sweep)}
    assert set(curves) == {"a", "b"}
    for modality, other in (("a", "b"), ("b", "a")):
        curve = curves[modality]
        assert curve.shares == (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
        assert curve.values[0] == pytest.approx(sweep.value("net", other, "accuracy"))
        assert curve.values[-1] == pytest.approx(sweep.value("net", "a+b", "accuracy"))
    shares = [k / SIZE for k in range(SIZE + 1)]
    steps = np.diff(presence_curves(sweep, shares=shares)[0].values) * SIZE
    assert set(np.round(steps).tolist()) <= {-1.0, 0.0, 1.0}, "nested: each step gives one more sample the modality"
    assert presence_curves(sweep) == presence_curves(sweep)
    assert presence_curves(sweep, seed=1) != presence_curves(sweep)
    assert (
        len({curve.values for curve in presence_curves(sweep, "macro_f1")} | {c.values for c in curves.values()}) == 4
    )


def test_samples_that_lack_a_modality_do_not_count() -> None:
    sweep = result(observed=True)
    there = sweep.samples["observed"].all(1)
    (first, _) = presence_curves(sweep)
    predictions = dict(zip(np.flatnonzero(sweep.samples["observed"][:, 1]), sweep.samples["net/b/prediction"]))
    targets = dict(zip(np.flatnonzero(sweep.samples["observed"][:, 1]), sweep.samples["net/b/target"]))
    expected = np.mean([predictions[row] == targets[row] for row in np.flatnonzero(there)])
    assert first.values[0] == pytest.approx(expected)


def test_the_table_and_mistakes() -> None:
    lines = presence_table(presence_curves(result())).splitlines()
    assert lines[0] == "| method | modality | 0% | 10% | 30% | 50% | 70% | 90% | 100% |"
    assert [line.split(" | ")[:2] for line in lines[2:]] == [["| net", "a"], ["| net", "b"]]
    with pytest.raises(LightningMMError, match="shares"):
        presence_curves(result(), shares=[1.2])
    with pytest.raises(LightningMMError, match="swept on all modalities and on all but one"):
        presence_curves(result(("a", "b")))
    given: Any = result()
    with pytest.raises(LightningMMError, match="no per-sample statistics"):
        presence_curves(SweepResult(given.rows, ["a", "b"], "accuracy"))
