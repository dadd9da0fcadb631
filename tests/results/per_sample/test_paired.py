"""Differences of two methods, paired by sample, against a loop over resamples."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lightning_mm.errors import LightningMMError
from lightning_mm.results import SweepResult, constant_rows, merge, read
from lightning_mm.results.bootstrap import resample_counts
from lightning_mm.results.per_sample import resampled
from lightning_mm.results.per_sample.paired import MEAN, Difference, differences, paired_replicates
from tests.support.repository import REPOSITORY
from tests.support.sweep_results import classified


def by_hand(results: list[SweepResult], combinations: list[str], replicates: int) -> np.ndarray:
    """adapted - zero_fill of every resample: the mean over combinations and seeds of the mean over drawn samples."""
    index = results[0].samples["index"]
    found = []
    for counts in resample_counts(len(index), replicates, 0):
        drawn = np.repeat(np.arange(len(index)), counts)
        accuracies = [
            np.mean([
                (own.samples[f"{method}/{c}/prediction"] == own.samples[f"{method}/{c}/target"])[drawn].mean()
                for own in results
                for c in combinations
            ])
            for method in ("adapted", "zero_fill")
        ]  # fmt: skip
        found.append(accuracies[0] - accuracies[1])
    return np.array(found)


def only(found: list[Difference], combination: str) -> Difference:
    (one,) = [one for one in found if one.combination == combination]
    return one


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_are_those_of_a_loop_over_resamples(seeds: int) -> None:
    parts = [classified(seed) for seed in range(seeds)]
    result = merge(parts)
    found = differences(result, "zero_fill", replicates=40)
    assert [one.combination for one in found] == ["rgb", "depth", "rgb+depth", MEAN]
    for name, over in (("rgb", ["rgb"]), ("rgb+depth", ["rgb+depth"]), (MEAN, ["rgb", "depth"])):
        one, values = only(found, name), by_hand(parts, over, 40)
        assert one.figure.interval == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
        assert one.better == pytest.approx(np.mean(values > 1e-12) + np.mean(np.abs(values) <= 1e-12) / 2)
        each = [np.mean([p.value("adapted", c) - p.value("zero_fill", c) for c in over]) for p in parts]
        assert one.figure.value == pytest.approx(np.mean(each))
        assert one.n == 30
        if seeds > 1:
            assert one.figure.std == pytest.approx(np.std(each, ddof=1))


def test_stored_replicates_of_a_sweep_give_the_same() -> None:
    result = read(REPOSITORY / "experiments" / "results" / "scenes")
    stored = only(differences(result, "zero_fill", ["adapted"]), MEAN)
    again = only(differences(replace(result, bootstrap=None), "zero_fill", ["adapted"]), MEAN)
    assert stored.figure.interval == pytest.approx(again.figure.interval, abs=1e-6)
    assert result.bootstrap is not None
    expected = result.bootstrap.difference_interval("adapted", "zero_fill", "miou", result.incomplete)
    assert stored.figure.interval == pytest.approx(expected, abs=1e-6)
    assert stored.figure.value == pytest.approx(result.gain("adapted"))


def test_less_is_better_turns_the_sign() -> None:
    result = classified()
    turned = replace(result, directions={"accuracy": "min"})
    one, other = (only(differences(each, "zero_fill", replicates=30), MEAN) for each in (result, turned))
    assert other.figure.value == pytest.approx(-one.figure.value)
    assert one.figure.interval is not None
    assert other.figure.interval == pytest.approx((-one.figure.interval[1], -one.figure.interval[0]))
    assert other.better == pytest.approx(1 - one.better)


def test_only_shared_seeds_are_compared() -> None:
    first, second = classified(0), classified(1)
    second = replace(second, rows=[row for row in second.rows if row.method == "adapted"])
    found = only(differences(merge([first, second]), "zero_fill", replicates=30), "rgb")
    alone = only(differences(first, "zero_fill", replicates=30), "rgb")
    assert found.figure.seeds == (0,)
    assert found.figure.value == pytest.approx(alone.figure.value)
    assert found.figure.interval == pytest.approx(alone.figure.interval)
    apart = replace(first, rows=[row for row in first.rows if row.method == "zero_fill"])
    nothing = only(differences(merge([apart, second]), "zero_fill", replicates=30), "rgb")
    assert math.isnan(nothing.figure.value)
    assert nothing.figure.interval is None


def test_against_a_constant() -> None:
    result = classified()
    result.rows += constant_rows("majority", 1 / 3, "accuracy", like=result)
    one = only(differences(result, "majority", ["adapted"], replicates=30), "rgb")
    drawn = resampled(result, "accuracy", replicates=30).replicates["adapted", "rgb", "accuracy"]
    assert one.figure.interval == pytest.approx(tuple(np.percentile(drawn - 1 / 3, [2.5, 97.5])))
    assert one.figure.value == pytest.approx(result.value("adapted", "rgb") - 1 / 3)


def test_without_statistics_there_is_the_difference_alone() -> None:
    result = replace(classified(), samples={})
    one = only(differences(result, "zero_fill"), "rgb")
    assert one.figure.value == pytest.approx(result.value("adapted", "rgb") - result.value("zero_fill", "rgb"))
    assert one.figure.interval is None
    assert math.isnan(one.better)
    with pytest.raises(LightningMMError, match=r"of method 'lora'; this sweep has \['zero_fill', 'adapted'\]"):
        differences(result, "lora")


def test_a_method_whose_statistics_do_not_suffice_costs_the_others_nothing() -> None:
    parts = [classified(seed) for seed in range(2)]
    whole = merge(parts)
    for part in parts:
        for combination in part.combinations:
            del part.samples[f"adapted/{combination}/prediction"]
    lacking = merge(parts)
    assert paired_replicates(lacking, "accuracy", 20) is not None
    found, before = (paired_replicates(one, "accuracy", 20) for one in (lacking, whole))
    assert found is not None
    assert before is not None
    assert found.key == before.key
    assert {method for method, *_ in found.replicates} == {method for method, *_ in before.replicates} - {"adapted"}
    for key, values in found.replicates.items():
        np.testing.assert_array_equal(values, before.replicates[key], "the same resamples")
    for part in parts:
        part.samples = {key: one for key, one in part.samples.items() if key == "index"}
    assert paired_replicates(merge(parts), "accuracy", 20) is None
