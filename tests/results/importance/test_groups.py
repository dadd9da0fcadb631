"""Importance per class and per group against results that hold this class or group alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.results import SweepResult, SweepRow, constant_rows, merge, read
from lightning_mm.results.bootstrap import resample_counts
from lightning_mm.results.importance import importance, importance_per_class, importance_per_group, read_groups
from lightning_mm.results.importance.guess import value_of_guessing
from lightning_mm.results.per_sample import rescore
from tests.support.repository import REPOSITORY
from tests.support.sweep_results import classified

METHODS = ["zero_fill", "adapted"]


def shapley(result: SweepResult, method: str, chosen: np.ndarray, empty: float) -> dict[str, float]:
    """What each modality adds to the accuracy of chosen samples (positions), averaged over all orders."""
    accuracy = {frozenset[str](): empty}
    for name in result.combinations:
        right = result.samples[f"{method}/{name}/prediction"] == result.samples[f"{method}/{name}/target"]
        accuracy[frozenset(name.split("+"))] = right[chosen].mean()
    total, orders = dict.fromkeys(result.modalities, 0.0), list(permutations(result.modalities))
    for order in orders:
        for place, name in enumerate(order):
            total[name] += accuracy[frozenset(order[: place + 1])] - accuracy[frozenset(order[:place])]
    return {name: value / len(orders) for name, value in total.items()}


def three() -> SweepResult:
    return classified(modalities=("rgb", "depth", "text"), samples=60)


def test_a_class_is_the_samples_of_this_class() -> None:
    result = three()
    target = result.samples["adapted/rgb/target"]
    found = importance_per_class(result, METHODS, empty=0.2, replicates=30)
    assert list(found) == METHODS
    assert [(one.name, one.n) for one in found["adapted"]] == [("0", 20), ("1", 20), ("2", 20)]
    counts = resample_counts(60, 30, 0)
    for place, one in enumerate(found["adapted"]):
        expected = shapley(result, "adapted", np.flatnonzero(target == place), 0.2)
        draws = [
            shapley(result, "adapted", np.repeat(np.arange(60), c * (target == place)), 0.2)["depth"] for c in counts
        ]
        assert {name: f.value for name, f in one.importance.shapley.items()} == pytest.approx(expected)
        assert one.importance.shapley["depth"].interval == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))


def test_classes_are_in_their_order_whatever_the_table_holds() -> None:
    result = three()
    for key in [key for key in result.samples if key.endswith("/target")]:
        result.samples[key] = np.repeat([0, 1, 2], [10, 20, 30])
    result.rows.clear()
    result.rows += [SweepRow("adapted", "rgb", 1, "accuracy", 0.5, 60, 0)]
    result.rows += [SweepRow("adapted", "rgb", 1, "recall_of_all", 0.5, 60, 0)]
    found = importance_per_class(rescore(result, ["recall_2"]), ["adapted"], replicates=0)["adapted"]
    assert [(one.name, one.n) for one in found] == [("0", 10), ("1", 20), ("2", 30)]


def test_a_group_is_a_result_of_its_samples() -> None:
    result = three()
    groups = {int(index): "even" if index % 2 == 0 else "odd" for index in result.samples["index"]}
    found = importance_per_group(result, groups, METHODS, replicates=20)
    target = result.samples["adapted/rgb/target"]
    for one in found["zero_fill"]:
        chosen = np.flatnonzero([groups[int(index)] == one.name for index in result.samples["index"]])
        guess = np.bincount(target).argmax()
        empty = np.mean(target[chosen] == guess)
        assert one.importance.empty == pytest.approx(empty)
        assert one.n == len(chosen) == 30
        expected = shapley(result, "zero_fill", chosen, empty)
        assert {name: f.value for name, f in one.importance.shapley.items()} == pytest.approx(expected)
        draws = [
            shapley(result, "zero_fill", chosen[np.repeat(np.arange(30), counts)], empty)["rgb"]
            for counts in resample_counts(30, 20, 0)
        ]
        assert one.importance.shapley["rgb"].interval == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))
    assert [one.name for one in found["adapted"]] == ["even", "odd"]


def test_several_seeds_have_a_spread_and_an_interval() -> None:
    parts = [classified(seed) for seed in range(3)]
    groups = {int(index): "all" for index in parts[0].samples["index"]}
    (one,) = importance_per_group(merge(parts), groups, ["adapted"], empty=0.3, replicates=20)["adapted"]
    each = [importance(part, "adapted", empty=0.3).shapley["rgb"].value for part in parts]
    figure = one.importance.shapley["rgb"]
    assert figure.value == pytest.approx(np.mean(each))
    assert figure.std == pytest.approx(np.std(each, ddof=1))
    assert figure.interval is not None
    assert figure.interval[0] < figure.value < figure.interval[1]


def test_classes_of_a_segmentation_have_their_iou() -> None:
    result = read(REPOSITORY / "experiments" / "results" / "scenes")
    found = importance_per_class(result, ["adapted"], replicates=0)["adapted"]
    assert [one.name for one in found] == ["ground", "person", "sign", "rock", "vent", "puddle"]
    for one in found:
        empty = one.importance.empty
        plain = importance(result, "adapted", f"iou_{one.name}", empty)
        assert {name: f.value for name, f in one.importance.shapley.items()} == pytest.approx(
            {name: f.value for name, f in plain.shapley.items()}, abs=1e-9
        )
        assert (empty > 0) == (one.name == "ground")  # the most frequent class


def test_a_network_that_sees_nothing_guesses_the_most_frequent_label() -> None:
    result = classified()
    target = np.r_[np.zeros(12), np.ones(10), np.full(8, 2)].astype(int)
    samples = {k: target if k.endswith("target") else v for k, v in result.samples.items()}
    result = replace(result, samples=samples)
    assert value_of_guessing(result, "accuracy") == (pytest.approx(0.4), "share of the most frequent label")
    for metric, value in (("recall_0", 1.0), ("recall_1", 0.0), ("balanced_accuracy", 1 / 3)):
        assert value_of_guessing(result, metric) == (pytest.approx(value), "always the most frequent label")
    assert importance(result, "adapted").empty == pytest.approx(0.4)
    assert importance(result, "adapted").source == "share of the most frequent label"
    rows = [*result.rows, *constant_rows("majority", 0.39, "accuracy", like=result)]
    assert importance(replace(result, rows=rows), "adapted").empty == 0.39
    assert value_of_guessing(replace(result, samples={}), "accuracy") is None


def test_numbers_are_guessed_by_their_median_and_probabilities_by_their_shares() -> None:
    target = np.array([0.0, 0.0, 0.5, 2.0, 3.0], dtype=np.float32)
    samples = {"index": np.arange(5), "ssf/a/prediction": target, "ssf/a/target": target}
    result = SweepResult([SweepRow("ssf", "a", 1, "mae", 0.0, 5, 0)], ["a"], "mae", {"mae": "min"}, samples=samples)
    assert value_of_guessing(result, "mae") == (pytest.approx(np.abs(target - 0.5).mean()), "always the median")
    assert value_of_guessing(result, "pearson") is None
    labels = np.array([1, 1, 1, 0])
    samples = {"index": np.arange(4), "ssf/a/prediction": labels, "ssf/a/target": labels}
    samples["ssf/a/score"] = labels.astype(np.float32)
    result = SweepResult([SweepRow("ssf", "a", 1, "acc2", 1.0, 4, 0)], ["a"], "acc2", samples=samples)
    expected = {"acc2": 0.75, "auroc": 0.5, "ece": 0.0, "brier": 0.75 * 0.25}
    assert {name: value_of_guessing(result, name)[0] for name in expected} == pytest.approx(expected)  # type: ignore[index]


def test_groups_are_read_from_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("index,actor,sex\n7,a1,f\n8,a2,m\n7,a1,f\n")
    assert read_groups(path, "sex") == {7: "f", 8: "m"}
    for text, column, said in (
        ("index,actor,sex\n7,a1,f\n", None, "several groupings: actor, sex; choose one with --group_by"),
        ("index,actor\n7,a1\n", "sex", "expected a column among actor, got 'sex'"),
        ("actor\na1\n", None, "expected columns index and a name of yours"),
        ("index,actor\n7.5,a1\n", None, "line 2: expected a whole number and a group, got '7.5'"),
        ("index,actor\n7,a1\n7,a2\n", None, "line 3: sample 7 is in two groups"),
        ("index,value\n" + "".join(f"{k},{k}\n" for k in range(300)), None, "value has 300 groups, more than 200"),
    ):
        path.write_text(text)
        with pytest.raises(LightningMMError, match=said):
            read_groups(path, column)
    path.write_bytes(b"index,actor\n7,\xff\n")
    with pytest.raises(LightningMMError, match="no CSV in UTF-8"):
        read_groups(path)
    with pytest.raises(DataNotFoundError, match="no groups at"):
        read_groups(tmp_path / "nothing.csv")


def test_what_is_missing_is_said() -> None:
    result = classified()
    with pytest.raises(LightningMMError, match=r"20 of 30 samples are in no group, the first of them index 110"):
        importance_per_group(result, dict.fromkeys(range(100, 110), "a"), METHODS)
    with pytest.raises(LightningMMError, match="no per-sample statistics"):
        importance_per_class(replace(result, samples={}), METHODS)
    numbers = {k: v.astype(np.float32) if "/" in k else v for k, v in result.samples.items()}
    with pytest.raises(LightningMMError, match="importance per class needs classes"):
        importance_per_class(replace(result, samples=numbers), METHODS)


@pytest.mark.parametrize("value", [1.0, 0.6])
def test_the_score_of_guessing_an_answer_is_known_where_one_answer_is_right(value: float) -> None:
    result = three()
    for name in result.combinations:
        own = {part: result.samples[f"adapted/{name}/{part}"] for part in ("prediction", "target")}
        result.samples[f"adapted/{name}/vqa_score"] = value * (own["prediction"] == own["target"])
    of_one = {key: values for key, values in result.samples.items() if not key.startswith("zero_fill/")}
    found = value_of_guessing(replace(result, samples=of_one), "vqa_score")
    expected = (pytest.approx(1 / 3), "always the most frequent label") if value == 1 else None
    assert found == expected
