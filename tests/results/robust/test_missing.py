"""Curves over p_missing against a loop and against draws, and figures under masks against a loop over samples."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from lightning_mm.errors import LightningMMError
from lightning_mm.missing import IndependentMissing
from lightning_mm.modalities import Modalities
from lightning_mm.results import SweepResult, SweepRow, merge, read, save
from lightning_mm.results.robust import P_MISSING, draw_curves, grid_markdown, missing_curves, policy_figures
from lightning_mm.results.robust.grid import write_grid
from tests.support.sweep_results import classified

NAMES = Modalities(["rgb", "depth", "audio"])


def result(seed: int = 0, samples: int = 60) -> SweepResult:
    return classified(seed, tuple(NAMES), samples)


def test_a_curve_is_the_mean_over_what_may_be_missing() -> None:
    sweep = result()
    grid = missing_curves(sweep)
    assert grid is not None
    assert grid.columns == ("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9")
    for method in sweep.methods:
        for p, figure in zip(P_MISSING, grid.rows[method]):
            total = weight = 0.0
            for absent in itertools.product([False, True], repeat=3):
                present = [name for name, out in zip(NAMES, absent) if not out]
                chance = math.prod(p if out else 1 - p for out in absent)
                if present:
                    total, weight = total + chance * sweep.value(method, "+".join(present)), weight + chance
            assert figure.value == pytest.approx(total / weight)
        assert grid.rows[method][0].value == sweep.full(method)


def test_it_is_the_expectation_of_draws() -> None:
    sweep = result(samples=300)
    grid, draws = missing_curves(sweep, p_missing=[0.6]), 60
    masks = {
        str(seed): IndependentMissing(0.6).draw(NAMES, range(300), epoch=0, seed=seed).numpy() for seed in range(draws)
    }
    under = policy_figures(sweep, masks=masks)
    assert grid is not None
    assert under is not None
    for method in sweep.methods:
        values = [figure.value for figure in under.rows[method]]
        assert abs(np.mean(values) - grid.rows[method][0].value) < 4 * np.std(values) / math.sqrt(draws)


def test_methods_without_all_combinations_are_left_out(tmp_path: Path) -> None:
    sweep = result()
    rows = [row for row in sweep.rows if (row.method, row.combination) != ("zero_fill", "rgb")]
    grid = missing_curves(SweepResult(rows, list(NAMES), "accuracy"))
    assert grid is not None
    assert list(grid.rows) == ["adapted"]
    assert "left out, since they lack a combination: zero_fill" in grid.notes
    assert "| adapted | " in grid_markdown(grid)
    assert len(draw_curves(grid).axes[0].lines) == 1
    lines = list(csv.DictReader(write_grid(grid, tmp_path / "p.csv").read_text().splitlines()))
    assert [float(line["value"]) for line in lines] == [figure.value for figure in grid.rows["adapted"]]
    some = [row for row in rows if row.combination != "depth"]
    assert missing_curves(SweepResult(some, list(NAMES), "accuracy")) is None
    with pytest.raises(LightningMMError, match="p_missing"):
        missing_curves(sweep, p_missing=[1.0])


@pytest.mark.parametrize("gaps", [False, True])
def test_figures_under_a_mask_are_those_of_single_samples(gaps: bool) -> None:
    sweep, rng = result(), np.random.default_rng(1)
    if gaps:
        observed = np.ones((60, 3), dtype=bool)
        observed[::3, 1] = False
        for key in [key for key in sweep.samples if key.count("/") == 2]:
            columns = [NAMES.index(name) for name in key.split("/")[1].split("+")]
            sweep.samples[key] = sweep.samples[key][observed[:, columns].all(1)]
        sweep.samples["observed"] = observed
    else:
        observed = sweep.samples["observed"]
    mask = rng.random((60, 3)) < 0.5
    assert not mask.any(1).all(), "an empty row counts with all that it observed"
    grid = policy_figures(sweep, masks={"random": mask})
    assert grid is not None
    for method in sweep.methods:
        hits = []
        for place in range(60):
            left = mask[place] & observed[place]
            left = left if left.any() else observed[place]
            combination = "+".join(name for name, there in zip(NAMES, left) if there)
            row = int(observed[:place, left].all(1).sum())
            begin = f"{method}/{combination}"
            hits.append(sweep.samples[f"{begin}/prediction"][row] == sweep.samples[f"{begin}/target"][row])
        assert grid.rows[method][0].value == pytest.approx(np.mean(hits))


def test_masks_are_kept_on_disk_and_by_a_merge(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    mask = rng.random((60, 3)) < 0.6
    sweeps = [result(0), result(0)]
    for seed, one in enumerate(sweeps):
        one.rows = [SweepRow(r.method, r.combination, r.n_available, r.metric, r.value, r.n, seed) for r in one.rows]
    sweeps[1].samples["available.random"] = mask  # another one of the same data has it
    written = save(sweeps[1], tmp_path)
    assert "random" in (tmp_path / "policies.md").read_text()
    lines = list(csv.DictReader(written["policies"].read_text().splitlines()))
    assert [(line["method"], line["policy"]) for line in lines] == [("zero_fill", "random"), ("adapted", "random")]
    again = policy_figures(read(tmp_path))
    alone, both = policy_figures(sweeps[1]), policy_figures(merge(sweeps))
    assert alone is not None
    assert both is not None
    assert again is not None
    assert again.rows == alone.rows
    assert [figure.seeds for figure in both.rows["adapted"]] == [(0, 1)]
    assert both.rows["adapted"][0].value == pytest.approx(alone.rows["adapted"][0].value)
    assert policy_figures(result()) is None
    assert "policies" not in save(result(), tmp_path)
    assert not list(tmp_path.glob("policies.*")), "these belong to the sweep that was replaced"


def test_a_method_without_a_combination_that_is_drawn_has_no_figure() -> None:
    sweep = result()
    sweep.samples = {key: one for key, one in sweep.samples.items() if not key.startswith("adapted/depth/")}
    only = np.zeros((60, 3), dtype=bool)
    only[:, 0] = True
    grid = policy_figures(sweep, masks={"rgb": only, "depth": np.roll(only, 1, axis=1)})
    assert grid is not None
    assert math.isnan(grid.rows["adapted"][1].value)
    assert grid.rows["adapted"][0].value == pytest.approx(sweep.value("adapted", "rgb"))
    sweep.samples["available.wrong"] = only[:5]
    with pytest.raises(LightningMMError, match=r"expected available.wrong Bool\[60, 3\]"):
        policy_figures(sweep)
