"""Value, spread and interval of a figure are of the same seeds: each is recomputed from the rows by a slow loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from lightning_mm import Modalities
from lightning_mm.results import Bootstrap, Figure, SweepResult, SweepRow, merge

NAMES = ["rgb", "depth", "thermal"]
ALL = list(Modalities(NAMES).combinations())
LEVELS = [[name for name in ALL if name.count("+") == 2 - missing] for missing in range(3)]
METHODS = ("zero_fill", "adapted", "dedicated")


def build(trial: int) -> SweepResult:
    """Three methods with three seeds out of four each; in odd trials some rows are missing."""
    random = np.random.default_rng(trial)
    rows = [
        SweepRow(method, name, name.count("+") + 1, "loss", float(random.random()), 9, int(seed))
        for method in METHODS
        for seed in random.permutation(4)[:3]
        for name in ALL
        if not (trial % 2 and random.random() < 0.1) and (method, name) != ("dedicated", ALL[-1])
    ]
    return SweepResult(rows, NAMES, "loss", {"loss": "min"})


def value(result: SweepResult, method: str, name: str, seed: int) -> float:
    found = [row.value for row in result.rows if (row.method, row.combination, row.seed) == (method, name, seed)]
    return found[0] if found else math.nan


def mean(result: SweepResult, method: str, names: Iterable[str], seed: int) -> float:
    return float(np.mean([value(result, method, name, seed) for name in names]))


def check(figure: Figure, per_seed: Callable[[int], float]) -> None:
    """Compare with the value of each seed by itself; figures of incomplete seeds have no such values."""
    own = [per_seed(seed) for seed in figure.seeds]
    if all(map(math.isfinite, own)) and own:
        assert figure.value == pytest.approx(np.mean(own))
        assert figure.std == pytest.approx(np.std(own, ddof=1) if len(own) > 1 else math.nan, nan_ok=True)


@pytest.mark.parametrize("trial", range(12))
def test_every_figure_is_of_the_seeds_it_names(trial: int) -> None:
    result = build(trial)
    incomplete, full = ALL[:-1], ALL[-1]
    for method in METHODS:
        figures = result.figures(method)
        for name in ALL:
            check(figures.of(name), lambda seed, m=method, c=name: value(result, m, c, seed))
        check(figures.mean(), lambda seed, m=method: mean(result, m, incomplete, seed))
        check(figures.mean(ALL[:2]), lambda seed, m=method: mean(result, m, ALL[:2], seed))
        check(figures.full(), lambda seed, m=method: value(result, m, full, seed))
        check(figures.worst(), lambda seed, m=method, c=figures.worst_combination: value(result, m, c, seed))
        # less is better
        check(
            figures.drop(),
            lambda seed, m=method: mean(result, m, incomplete, seed) - value(result, m, full, seed),
        )
        for point, names in zip(figures.curve(), LEVELS, strict=True):
            check(point, lambda seed, m=method, n=names: mean(result, m, n, seed))
        check(
            figures.robustness(),
            lambda seed, m=method: np.dot((0.25, 0.5, 0.25), [mean(result, m, n, seed) for n in LEVELS]),
        )
        check(
            figures.gain(),
            lambda seed, m=method: mean(result, "zero_fill", incomplete, seed) - mean(result, m, incomplete, seed),
        )


@pytest.mark.parametrize("trial", range(0, 12, 2))
def test_the_gap_compares_means_of_the_seeds_it_names(trial: int) -> None:
    result = build(trial)
    gap = result.figures("adapted").recovered_gap()
    own, low, high = (
        np.mean([mean(result, method, ALL[:-1], seed) for seed in gap.seeds])
        for method in ("adapted", "zero_fill", "dedicated")
    )
    expected = (low - own) / (low - high) if high < low else math.nan
    assert gap.value == pytest.approx(expected, nan_ok=True)


def test_one_seed_has_intervals_and_no_spread() -> None:
    rows = [SweepRow("zero_fill", name, 1, "miou", 0.5, 9, 4, 0.4, 0.7) for name in ("rgb", "depth")]
    rows += [SweepRow("zero_fill", "rgb+depth", 2, "miou", 0.8, 9, 4, 0.7, 0.9)]
    noise = np.linspace(-0.1, 0.1, 101)
    replicates = {("zero_fill", row.combination, "miou"): row.value + noise for row in rows}
    result = SweepResult(rows, ["rgb", "depth"], "miou", bootstrap=Bootstrap("same", replicates))
    figures = result.figures("zero_fill")
    assert figures.of("depth") == figures.of("depth+rgb".removesuffix("+rgb"))
    assert figures.of("depth+rgb").interval == figures.full().interval == (0.7, 0.9)
    assert figures.mean().interval == pytest.approx((0.405, 0.595))
    for figure in (figures.of("rgb"), figures.mean(), figures.full(), figures.worst(), figures.drop()):
        assert figure.seeds == (4,)
        assert math.isnan(figure.std)
    two = merge([result, SweepResult([SweepRow("zero_fill", "rgb", 1, "miou", 0.3, 9, 5)], ["rgb", "depth"], "miou")])
    assert two.figures("zero_fill").of("rgb").interval is None
    assert two.figures("zero_fill").of("rgb").seeds == (4, 5)
