"""Robustness of whole sweeps: MultiBench's numbers, and expectations as a loop over what may be missing."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from lightning_mm.errors import LightningMMError
from lightning_mm.modality_names import ModalityNames
from lightning_mm.results import SweepResult, SweepRow, constant_rows, merge
from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.per_sample import resampled
from lightning_mm.results.result import Direction
from lightning_mm.results.robust import Scenario, bernoulli, robustness, usual_scenarios
from lightning_mm.results.robust.linear import weighted_sum
from lightning_mm.results.robust.tables import figures_of, normalised_of
from lightning_mm.results.robustness import area, effective_robustness, relative_robustness
from tests.support.sweep_results import classified

TEN = ModalityNames(list("abcdefghij"))


def by_number_missing(curves: dict[str, np.ndarray], direction: Direction = "max") -> SweepResult:
    """A sweep of ten modalities whose mean over the combinations that lack k of them is point k of a curve."""
    rows = []
    for method, curve in curves.items():
        for combination in TEN.combinations():
            size = len(TEN.parse(combination))
            spread = 0.01 * math.sin(len(rows))  # the mean of a group is its point only after this
            rows.append(SweepRow(method, combination, size, "score", curve[10 - size] + spread, 9, 0))
    result = SweepResult(rows, list(TEN), "score", {"score": direction})
    found = {method: result.figures(method).curve() for method in curves}
    return SweepResult(
        [
            SweepRow(r.method, r.combination, r.n_available, r.metric,
                     r.value + curves[r.method][10 - r.n_available] - found[r.method][10 - r.n_available].value, 9, 0)
            for r in rows
        ],
        list(TEN),
        "score",
        {"score": direction},
    )  # fmt: skip


@pytest.mark.parametrize("direction", ["max", "min"])
def test_a_sweep_of_ten_modalities_equals_multibench(golden_root: Path, direction: Direction) -> None:
    """Its ten levels of noise, 0 to 0.9, are the shares of missing modalities."""
    golden = np.load(golden_root / "c4_robustness.npz")
    stored = {key.removeprefix("curve__"): golden[key] for key in golden.files if key.startswith("curve__")}
    curves = {"mine": golden["curve_mine"], "MFM": stored["MFM"], "MulT": stored["MulT"], "LF": stored["LF"]}
    # MultiBench averages these with their transformer variants, but not the reference
    curves |= {f"{name}_mean": (stored[name] + stored[f"{name}-Transformer"]) / 2 for name in ("EF", "LF")}
    result = by_number_missing(curves, direction)
    sign = 1 if direction == "max" else -1
    found = [robustness(result, method, reference="LF") for method in curves if method != "LF"]
    assert found[0].relative.value == pytest.approx(golden["relative_raw"].item(), rel=1e-9)
    assert found[0].effective.value == pytest.approx(sign * golden["effective_raw"].item(), rel=1e-9)
    scaled = normalised_of(found, direction)["mine"]
    ending = "" if direction == "max" else "_finance"
    for name in ("relative", "effective"):
        expected = golden[f"{name}_normalized{ending}"].item()
        assert scaled[f"{name} 0-1"] == pytest.approx(expected, rel=1e-9)


def random_result(modalities: int, seeds: int = 1, direction: Direction = "max") -> SweepResult:
    names, rng = ModalityNames(list("abcd"[:modalities])), np.random.default_rng(modalities)
    rows = [
        SweepRow(method, name, len(names.parse(name)), "score", float(rng.random()), 50, seed)
        for method in ("late", "ssf")
        for seed in range(seeds)
        for name in names.combinations()
    ]
    return SweepResult(rows, list(names), "score", {"score": direction})


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("modalities", [1, 2, 4])
def test_figures_are_those_of_the_curve(modalities: int, direction: Direction) -> None:
    result = random_result(modalities, direction=direction)
    found, sign = robustness(result, "ssf", reference="late"), 1 if direction == "max" else -1
    own, late = result.curve("ssf"), result.curve("late")
    assert found.area.value == pytest.approx(area(own.tolist()))
    assert found.area.value == pytest.approx(result.robustness("ssf"))
    assert found.drop_area.value == pytest.approx(sign * (own[0] - area(own.tolist())))
    assert found.relative.value == pytest.approx(relative_robustness(own, 1 / modalities))
    assert found.effective.value == pytest.approx(sign * effective_robustness(own, late))
    assert robustness(result, "late", reference="late").effective.value == 0


def test_spread_is_that_of_the_seeds_and_intervals_those_of_the_replicates() -> None:
    result = random_result(3, seeds=3)
    found = robustness(result, "ssf", reference="late")
    alone = []
    for seed in range(3):
        part = SweepResult([row for row in result.rows if row.seed == seed], result.modalities, "score")
        alone.append(robustness(part, "ssf", reference="late"))
    for name in ("area", "drop area", "relative", "effective"):
        each = [figures_of(one)[name].value for one in alone]
        assert figures_of(found)[name].value == pytest.approx(np.mean(each))
        assert figures_of(found)[name].std == pytest.approx(np.std(each, ddof=1))
        assert figures_of(found)[name].interval is None

    one, rng = random_result(2), np.random.default_rng(0)
    draws = {(m, c, "score"): rng.random(60) for m in ("ssf", "late") for c in ("a", "b", "a+b")}
    one.bootstrap = Bootstrap("key", draws)
    figures = robustness(one, "ssf", reference="late", scenarios=[Scenario("s", {"a": 0.25})])

    def each(method: str) -> tuple[np.ndarray, np.ndarray]:
        return draws[method, "a+b", "score"], (draws[method, "a", "score"] + draws[method, "b", "score"]) / 2

    full, lacking = each("ssf")
    expected = {
        "area": (full + lacking) / 2,
        "drop area": full - (full + lacking) / 2,
        "relative": (full + lacking) / 4,
        "effective": lacking - full - (each("late")[1] - each("late")[0]),
        "E[s]": 0.25 * full + 0.75 * draws["ssf", "b", "score"],
    }
    for name, values in expected.items():
        assert figures_of(figures)[name].interval == pytest.approx(tuple(np.percentile(values, [2.5, 97.5]))), name


@pytest.mark.parametrize("p", [{"a": 0.99, "b": 0.8}, {"a": 0.5, "b": 0.1, "c": 0.4, "d": 0.7}, {"d": 0.0}])
def test_expectation_is_the_mean_over_what_may_be_missing(p: dict[str, float]) -> None:
    result = random_result(4)
    values, total, weight = result.values("ssf"), 0.0, 0.0
    for there in product([False, True], repeat=4):
        chance = math.prod((p.get(name, 1.0) if has else 1 - p.get(name, 1.0)) for name, has in zip("abcd", there))
        if any(there):
            weight += chance
            total += chance * values["+".join(name for name, has in zip("abcd", there) if has)] if chance else 0
    found = robustness(result, "ssf", scenarios=[Scenario("s", p)]).expected["s"].value
    assert found == pytest.approx(total / weight)


def test_of_many_modalities_only_those_that_may_be_missing_count() -> None:
    many = [f"m{place}" for place in range(40)]
    found = Scenario("s", {"m0": 0.9, "m39": 0.0}).weights(many)
    assert found == pytest.approx({"+".join(many[1:39]): 0.1, "+".join(many[:39]): 0.9})
    assert usual_scenarios(many) == []
    with pytest.raises(LightningMMError, match="more than 16 modalities may be missing"):
        bernoulli(0.1, many).weights(many)


def test_expectation_by_drawing_agrees() -> None:
    """The mean over a hundred thousand draws of what is missing."""
    result, rng = random_result(4), np.random.default_rng(0)
    there = rng.random((100_000, 4)) >= 0.2
    values = result.values("ssf")
    drawn = [values["+".join(n for n, has in zip("abcd", one) if has)] for one in there.tolist() if any(one)]
    found = robustness(result, "ssf", scenarios=[bernoulli(0.2, list("abcd"))]).expected["p=0.2"].value
    assert found == pytest.approx(np.mean(drawn), abs=3e-3)


def test_what_is_lacking_is_not_a_number_and_scenarios_need_only_what_can_occur() -> None:
    result = random_result(2)
    rows = [row for row in result.rows if row.combination != "b"]
    found = robustness(SweepResult(rows, ["a", "b"], "score"), "ssf", "score", "late", [Scenario("s", {"b": 0.5})])
    assert math.isnan(found.area.value)
    assert math.isnan(found.effective.value)
    values = result.values("ssf")
    assert found.expected["s"].value == pytest.approx((values["a"] + values["a+b"]) / 2)


def test_no_interval_if_only_some_seeds_have_all_combinations() -> None:
    parts = [classified(seed) for seed in (0, 1)]
    parts[1].rows[:] = [row for row in parts[1].rows if (row.method, row.combination) != ("adapted", "depth")]
    for key in [key for key in parts[1].samples if key.startswith("adapted/depth/")]:
        del parts[1].samples[key]
    result = merge(parts)
    drawn = resampled(result, "accuracy", replicates=20)
    unfinished = robustness(result, "adapted", bootstrap=drawn).area
    assert unfinished.seeds == (0,)
    assert unfinished.interval is None
    assert robustness(result, "zero_fill", bootstrap=drawn).area.interval is not None


def test_a_constant_counts_for_every_seed() -> None:
    result = random_result(2, seeds=2)
    result.rows += constant_rows("majority", 0.25, "score", like=result)
    found = weighted_sum(result, "score", {"ssf": {"a": 1.0}, "majority": {"a": -1.0}})
    assert found.value == pytest.approx(result.value("ssf", "a") - 0.25)
    assert found.seeds == (0, 1)


@pytest.mark.parametrize(
    ("p", "said"),
    [
        ({"x": 0.5}, r"unknown modality 'x'; this sweep has \['a', 'b'\]"),
        ({"a": 1.5}, "p_available of a must be between 0 and 1, got 1.5"),
        ({"a": 0, "b": 0}, "some modality that is available at times"),
    ],
)
def test_impossible_availability_is_refused(p: dict[str, float], said: str) -> None:
    with pytest.raises(LightningMMError, match=said):
        Scenario("s", p).weights(["a", "b"])
