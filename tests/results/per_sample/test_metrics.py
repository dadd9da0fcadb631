"""Metrics from stored statistics equal those of the tasks and of torchmetrics, on all samples and on resamples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional import classification as reference

from lightning_mm.errors import LightningMMError
from lightning_mm.results.per_sample import classification, computable
from lightning_mm.results.per_sample.choose import find_metric
from lightning_mm.results.per_sample.metric import Labels, Statistics
from lightning_mm.tasks.metrics.classification import classification_metrics
from lightning_mm.tasks.metrics.segmentation import (
    AbsentClasses,
    calibration_per_sample,
    class_metrics,
    segmentation_metrics,
)
from lightning_mm.tasks.metrics.sentiment import binary_metrics, sentiment_metrics

SAMPLES, DRAWS = 40, 25
NAMES = ("cat", "dog", "owl", "fox")


def drawn() -> NDArray[np.float64]:
    """Resamples, the first one with every sample once, the last one with a single sample."""
    counts = np.random.default_rng(1).multinomial(SAMPLES, np.full(SAMPLES, 1 / SAMPLES), size=DRAWS).astype(float)
    counts[0], counts[-1] = 1, np.eye(SAMPLES)[3]
    return counts


def picked(statistics: Statistics, weights: NDArray[np.float64]) -> dict[str, Tensor]:
    """The samples of one resample, as often as they are drawn."""
    rows = np.repeat(np.arange(SAMPLES), weights.astype(int))
    return {name: torch.from_numpy(values[rows]) for name, values in statistics.items()}


def values(name: str, statistics: Statistics, labels: Labels | None = None) -> dict[str, NDArray[np.float64]]:
    return find_metric(name, statistics).values(statistics, drawn(), labels or Labels(NAMES), name)


def classes(number: int) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(number)
    logits = torch.from_numpy(generator.normal(size=(SAMPLES, number)).astype(np.float32)) * 2
    probability, target = logits.softmax(1), generator.integers(number - 1, size=SAMPLES)
    if number == 2:
        target = generator.integers(2, size=SAMPLES)
    found = {"prediction": logits.argmax(1).numpy(), "target": target, "probability": probability.numpy()}
    confidence, right = probability.max(1).values, probability[torch.arange(SAMPLES), torch.from_numpy(target)]
    if number == 2:
        return {**found, "score": probability[:, 1].numpy()}
    truth = torch.nn.functional.one_hot(torch.from_numpy(target), number)
    brier = ((probability - truth) ** 2).sum(1)
    return {
        **found,
        "confidence": confidence.numpy(),
        "target_probability": right.numpy(),
        "brier": brier.numpy(),
    }


@pytest.mark.parametrize("number", [2, 4])
def test_classification_equals_the_task_and_torchmetrics(number: int) -> None:
    statistics = classes(number)
    names = ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy", "kappa", "ece", "brier", "nll")
    found = {name: values(name, statistics)[name] for name in names}
    if number == 2:
        found["auroc"] = values("auroc", statistics)["auroc"]
        found["acc2"], found["f1"] = values("acc2", statistics)["acc2"], values("f1", statistics)["f1"]
    for place, weights in enumerate(drawn()):
        own = picked(statistics, weights)
        prediction, target, probability = own["prediction"], own["target"], own["probability"]
        expected = classification_metrics(prediction, target, number, own.get("score"))
        recall = reference.multiclass_recall(prediction, target, number, average="none")
        expected |= {
            "balanced_accuracy": float(recall[target.unique()].mean()),
            "weighted_f1": float(reference.multiclass_f1_score(prediction, target, number, average="weighted")),
            "kappa": float(reference.multiclass_cohen_kappa(prediction, target, number)),
            "ece": float(reference.multiclass_calibration_error(probability, target, number, n_bins=15, norm="l1")),
            "nll": float(torch.nn.functional.nll_loss(probability.log(), target)),
            "brier": float(((probability - torch.nn.functional.one_hot(target, number)) ** 2).sum(1).mean())
            / (2 if number == 2 else 1),
        }
        if number == 2:
            expected["acc2"], expected["f1"] = binary_metrics(prediction, target)
        for name, value in expected.items():
            if not (name == "kappa" and len(target.unique()) == 1):  # 0/0, which torchmetrics calls 0
                assert found[name][place] == pytest.approx(value, abs=1e-5 if name == "nll" else 1e-6, nan_ok=True), (
                    name
                )


def test_values_per_class() -> None:
    statistics = classes(4)
    for name, function in (
        ("recall", reference.multiclass_recall),
        ("precision", reference.multiclass_precision),
        ("f1", reference.multiclass_f1_score),
    ):
        found = values(f"{name}_per_class", statistics)
        assert list(found) == [f"{name}_{label}" for label in NAMES]
        for place, weights in enumerate(drawn()):
            own = picked(statistics, weights)
            expected = function(own["prediction"], own["target"], 4, average="none")
            for label in range(4):
                value = found[f"{name}_{NAMES[label]}"][place]
                if math.isnan(value):  # nothing of this class: 0/0
                    value = 0.0
                assert value == pytest.approx(float(expected[label]), abs=1e-6)
        assert values(f"{name}_owl", statistics)[f"{name}_owl"] == pytest.approx(found[f"{name}_owl"], nan_ok=True)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_with_any_number_of_bins_and_certain_samples(bins: int) -> None:
    statistics = classes(4)
    probability = torch.from_numpy(statistics["probability"]).clone()
    probability[:5] = torch.nn.functional.one_hot(probability[:5].argmax(1), 4).float()  # confidence 1
    statistics["confidence"] = probability.max(1).values.numpy()
    found = classification.calibration_error(statistics, np.ones((1, SAMPLES)), bins=bins)[0]
    target = torch.from_numpy(statistics["target"])
    expected = reference.multiclass_calibration_error(probability, target, 4, n_bins=bins, norm="l1")
    assert found == pytest.approx(float(expected), abs=1e-6)


def confusions(number: int) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(number)
    confusion = generator.integers(20, size=(SAMPLES, number, number))
    confusion[:, 1] = 0  # the ignored label is never in the truth
    confusion[:, :, 1] //= 4
    confusion[10:, 0] = 0  # absent from many resamples' small samples
    confusion[5:, :, 0] = 0
    return {"confusion": confusion.astype(np.uint16)}


@pytest.mark.parametrize("ignored", [1, 255])
@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("number", [2, 4])
def test_segmentation_equals_the_task(number: int, absent: AbsentClasses, ignored: int) -> None:
    statistics, names = confusions(number), NAMES[:number]
    labels = Labels(names, ignored, absent)
    asked = ["miou", "macc", "mf1", "pixel_accuracy", "iou_per_class"] + ["iou"] * (number == 2)
    found = {key: one for name in asked for key, one in values(name, statistics, labels).items()}
    per_class = {name: values(f"{name}_per_class", statistics, labels) for name in ("recall", "f1")}
    for place, weights in enumerate(drawn()):
        total = picked({"confusion": statistics["confusion"].astype(np.int64)}, weights)["confusion"].sum(0)
        expected = segmentation_metrics(total, names, ignored, absent)
        assert set(expected) == set(found)
        for name, value in expected.items():
            assert found[name][place] == pytest.approx(value, abs=1e-12, nan_ok=True), name
        of_classes = class_metrics(total, absent)
        for name, key in (("recall", "acc"), ("f1", "f1")):
            own = [per_class[name][f"{name}_{label}"][place] for label in names]
            assert own == pytest.approx(of_classes[key].tolist(), nan_ok=True)  # type: ignore[index]


def test_the_mean_over_images_and_over_frequent_classes() -> None:
    statistics, labels = confusions(4), Labels(NAMES)
    singles = [class_metrics(torch.from_numpy(one.astype(np.int64)))["iou"].nanmean().item()
               for one in statistics["confusion"]]  # fmt: skip
    assert values("image_miou", statistics, labels)["image_miou"][0] == pytest.approx(np.nanmean(singles))
    total = statistics["confusion"].sum(0, dtype=np.int64)
    iou = class_metrics(torch.from_numpy(total))["iou"].nan_to_num(0).numpy()
    expected = (iou * total.sum(1)).sum() / total.sum()
    assert values("fwiou", statistics, labels)["fwiou"][0] == pytest.approx(expected)


@pytest.mark.parametrize("number", [2, 4])
def test_calibration_of_pixels_equals_torchmetrics(number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    logits = 3 * torch.randn(SAMPLES, number, 4, 5, generator=generator)
    target = torch.randint(number, (SAMPLES, 4, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    logits[:3, 0], target[0] = 200, 255  # certain pixels, and a sample that is all ignored
    statistics = {k: one.numpy() for k, one in calibration_per_sample(logits, target, 255).items()}
    found = {name: values(name, statistics)[name] for name in ("ece", "brier")}
    for place, weights in enumerate(drawn()):
        rows = np.repeat(np.arange(SAMPLES), weights.astype(int))
        probability, label = logits[rows].softmax(1), target[rows]
        expected = reference.multiclass_calibration_error(probability, label, number, n_bins=15, ignore_index=255)
        assert found["ece"][place] == pytest.approx(float(expected), abs=1e-5)
        valid = label != 255
        truth = torch.nn.functional.one_hot(label[valid], number)
        error = ((probability.movedim(1, -1)[valid] - truth) ** 2).sum(1).mean()
        assert found["brier"][place] == pytest.approx(float(error) / (2 if number == 2 else 1), abs=1e-6)


def test_regression_equals_the_task() -> None:
    generator = np.random.default_rng(5)
    target = np.round(generator.uniform(-3, 3, SAMPLES) * 2) / 2
    target[::7] = 0
    prediction = target + generator.normal(size=SAMPLES)
    statistics = {"prediction": prediction.astype(np.float32), "target": target.astype(np.float32)}
    found = {name: values(name, statistics)[name] for name in computable(statistics)}
    assert {"mae", "rmse", "r2", "pearson"} < found.keys()
    for place, weights in enumerate(drawn()):
        own = picked(statistics, weights)
        error = own["prediction"].double() - own["target"].double()
        expected = sentiment_metrics(own["prediction"], own["target"])
        expected["rmse"] = float((error**2).mean().sqrt())
        around = ((own["target"].double() - own["target"].double().mean()) ** 2).mean()
        expected["r2"] = float(1 - (error**2).mean() / around) if around > 0 else math.nan
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert found[name][place] == pytest.approx(value, abs=1e-6, nan_ok=True), name


def test_constant_predictions_have_no_correlation() -> None:
    statistics = {"prediction": np.full(SAMPLES, 0.3, np.float32), "target": np.arange(SAMPLES, dtype=np.float32)}
    assert np.isnan(values("pearson", statistics)["pearson"]).all()


def test_a_resample_without_samples_is_not_a_number() -> None:
    nothing = np.zeros((1, SAMPLES))
    for statistics in (classes(2), classes(4), confusions(4)):
        for name in computable(statistics):
            for value in find_metric(name, statistics).values(statistics, nothing, Labels(NAMES), name).values():
                assert np.isnan(value).all(), name


def test_what_cannot_be_computed_is_said() -> None:
    plain = {name: classes(4)[name] for name in ("prediction", "target")}
    with pytest.raises(LightningMMError, match=r"ece needs probabilities .*stored are prediction, target; sweep again"):
        find_metric("ece", plain)
    with pytest.raises(LightningMMError, match=r"no metric 'speed'; expected one of accuracy, .*module\.function"):
        find_metric("speed", plain)
    with pytest.raises(LightningMMError, match=r"no metric 'recall_cow'; this sweep has recall_cat"):
        values("recall_cow", plain)
