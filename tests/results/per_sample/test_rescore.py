"""Rescoring a result: stored metrics come out again, with the sweep's own intervals; all of today's results do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_mm.errors import LightningMMError, UsageError
from lightning_mm.results import SweepResult, SweepRow, merge, read
from lightning_mm.results.per_sample import cells_of, import_metric, own_metric, resampled, rescore, restricted
from lightning_mm.results.per_sample.choose import labels_of
from tests.support.repository import REPOSITORY
from tests.support.sweep_results import classified

RESULTS = REPOSITORY / "experiments" / "results"


@pytest.mark.parametrize("name", ["scenes", "ombria", "mosi", "utd_mhad"])
def test_stored_results_come_out_again(name: str) -> None:
    """Every metric of results that an older version wrote, which `rescore` compares with the stored ones."""
    result = read(RESULTS / name)
    again = rescore(result, result.metrics)
    assert again.rows == result.rows
    if result.bootstrap is None:
        return
    for metric in result.metrics:
        if (result.methods[0], result.combinations[0], metric) in result.bootstrap.replicates:
            found = resampled(result, metric)
            assert found.key == result.bootstrap.key
            for key, values in found.replicates.items():
                np.testing.assert_allclose(values, result.bootstrap.replicates[key], atol=1e-6)


def test_a_metric_is_that_of_the_samples_and_its_interval_that_of_their_resamples() -> None:
    result = rescore(classified(), ["macro_f1", "recall_per_class"], replicates=50)
    assert result.metrics == ["accuracy", "macro_f1", "recall_0", "recall_1", "recall_2"]
    prediction, target = (result.samples[f"adapted/depth/{name}"] for name in ("prediction", "target"))
    expected = np.mean(
        [
            2 * np.sum((prediction == c) & (target == c)) / np.sum((prediction == c) + 1 * (target == c))
            for c in range(3)
        ]
    )
    assert result.value("adapted", "depth", "macro_f1") == pytest.approx(expected)
    assert result.value("adapted", "depth", "recall_1") == pytest.approx(np.mean(prediction[target == 1] == 1))
    (row,) = result.select("adapted", "depth", "macro_f1")
    assert result.bootstrap is not None
    interval = result.bootstrap.interval("adapted", "depth", "macro_f1")
    assert (row.low, row.high) == interval
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.value < row.high


def test_samples_that_lack_a_modality_do_not_count() -> None:
    result = classified()
    observed = result.samples["observed"].copy()
    observed[::3, 0] = False  # rgb
    samples: dict[str, Any] = {}
    for key, values in result.samples.items():
        samples[key] = values[observed[:, 0]] if "/rgb" in key else values
    result = replace(result, samples={**samples, "observed": observed}, rows=result.rows)
    cell = next(cell for cell in cells_of(result) if cell.combination == "rgb")
    assert cell.rows.tolist() == np.flatnonzero(observed[:, 0]).tolist()
    found = rescore(replace(result, rows=[SweepRow("adapted", "rgb", 1, "accuracy", np.nan, 1, 0)]), ["macro_f1"])
    assert found.select("adapted", "rgb", "macro_f1")[0].n == len(cell.rows)
    broken = replace(result, samples={**result.samples, "adapted/rgb/target": np.zeros(3, np.int64)})
    with pytest.raises(LightningMMError, match=r"target of method 'adapted', combination 'rgb'.*one per sample"):
        cells_of(broken)


def test_functions_of_the_user() -> None:
    def wrong(statistics: dict[str, NDArray[Any]]) -> float:
        return float(np.mean(statistics["prediction"] != statistics["target"]))

    result = rescore(classified(), [own_metric(wrong, direction="min")], replicates=20)
    assert result.direction("wrong") == "min"
    assert result.value("adapted", "rgb", "wrong") == pytest.approx(1 - result.value("adapted", "rgb", "accuracy"))
    assert result.bootstrap is not None
    right = resampled(result, "accuracy", replicates=20).replicates["adapted", "rgb", "accuracy"]
    assert result.bootstrap.replicates["adapted", "rgb", "wrong"] == pytest.approx(1 - right)
    assert import_metric("numpy.linalg.norm").name == "norm"
    small = classified()
    small.samples.update({key: one.astype(np.uint8) for key, one in small.samples.items() if "/" in key})

    def bias(statistics: dict[str, NDArray[Any]]) -> float:
        return float(np.mean(statistics["prediction"] - statistics["target"]))

    assert rescore(small, [own_metric(bias)]).rows == rescore(classified(), [own_metric(bias)]).rows
    for path, said in (("nothing.at_all", "cannot be imported"), ("numpy.pi", "expected a function")):
        with pytest.raises(UsageError, match=said):
            import_metric(path)


def test_another_value_of_a_stored_metric_is_refused() -> None:
    result = classified()
    rows = [replace(row, value=row.value + 0.01) for row in result.rows]
    with pytest.raises(LightningMMError, match=r"accuracy of method 'zero_fill'.*in sweep\.csv and .* by the stored"):
        rescore(replace(result, rows=rows), ["accuracy"])
    with pytest.raises(LightningMMError, match="no per-sample statistics"):
        rescore(replace(result, samples={}), ["accuracy"])


def test_several_seeds_have_a_spread_and_paired_resamples() -> None:
    parts = [classified(seed) for seed in (0, 1, 2)]
    result = rescore(merge(parts), ["macro_f1"])
    figure = result.figures("adapted", "macro_f1").of("rgb")
    alone = [rescore(part, ["macro_f1"]).value("adapted", "rgb", "macro_f1") for part in parts]
    assert figure.value == pytest.approx(np.mean(alone))
    assert figure.std == pytest.approx(np.std(alone, ddof=1))
    assert figure.interval is None
    together = resampled(result, "macro_f1", replicates=30).replicates["adapted", "rgb", "macro_f1"]
    each = [resampled(part, "macro_f1", replicates=30).replicates["adapted", "rgb", "macro_f1"] for part in parts]
    assert together == pytest.approx(np.mean(each, axis=0))
    one = resampled(result, "macro_f1", seeds=[1], replicates=30).replicates["adapted", "rgb", "macro_f1"]
    assert one == pytest.approx(each[1])


def test_a_group_of_samples_is_a_result() -> None:
    result = classified()
    kept = result.samples["index"] % 2 == 0
    found = restricted(result, kept, ["accuracy"], replicates=20)
    prediction, target = (result.samples[f"adapted/rgb/{name}"][kept] for name in ("prediction", "target"))
    assert found.value("adapted", "rgb") == pytest.approx(np.mean(prediction == target))
    assert found.select("adapted", "rgb", "accuracy")[0].n == kept.sum()
    assert rescore(found, ["accuracy"]).rows == found.rows
    with pytest.raises(LightningMMError, match="none of these samples"):
        restricted(result, np.zeros_like(kept), ["accuracy"])


def test_what_a_study_does_not_say_is_found_by_the_stored_figures() -> None:
    generator = np.random.default_rng(0)
    confusion = generator.integers(1, 9, size=(6, 3, 3))
    confusion[:, 0], confusion[:, :, 0] = 0, 3  # never true, but predicted
    total = confusion.sum(0).astype(float)
    iou = total.diagonal() / (total.sum(0) + total.sum(1) - total.diagonal())
    samples = {"index": np.arange(6), "observed": np.ones((6, 1), bool), "ssf/rgb/confusion": confusion}
    for value, ignored in ((iou[1:].mean(), 0), (iou.mean(), None)):
        result = SweepResult([SweepRow("ssf", "rgb", 1, "miou", value, 6, 0)], ["rgb"], "miou", samples=samples)
        assert labels_of(result, cells_of(result)).ignored == ignored
        assert rescore(result, ["miou", "iou_per_class"]).value("ssf", "rgb", "iou_2") == pytest.approx(iou[2])
    of_classes = [SweepRow("ssf", "rgb", 1, f"iou_{name}", iou[k], 6, 0) for k, name in enumerate("xyz")]
    of_one = replace(result, rows=[*result.rows, *of_classes], primary_metric="iou_z")
    found = rescore(of_one, ["recall_per_class"])
    assert found.value("ssf", "rgb", "recall_z") == pytest.approx(total[2, 2] / total[2].sum())
    wrong = replace(result, rows=[replace(result.rows[0], value=0.9)])
    with pytest.raises(LightningMMError, match="do not give the stored miou"):
        rescore(wrong, ["macc"])
