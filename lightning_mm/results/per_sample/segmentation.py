"""Metrics of segmentation from the confusion matrices of samples; without torch.

Conventions are those of :mod:`lightning_mm.tasks.metrics.segmentation`. Shapes: n samples, C classes, R resamples; a
confusion matrix has the truth in rows, the prediction in columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lightning_mm.results.per_sample.metric import Labels, Metric, Statistics, Values
from lightning_mm.results.per_sample.weighted import Weights, average, mean_of_known, ratio, weighted_mean_of

Counts = NDArray[np.float64]
"""Confusion matrices, ``Float[..., C, C]``."""


def has_confusion(statistics: Statistics) -> bool:
    """Whether every sample has a confusion matrix."""
    confusion = statistics.get("confusion")
    return confusion is not None and confusion.ndim == 3 and confusion.shape[1] == confusion.shape[2]


def summed(statistics: Statistics, weights: Weights) -> Counts:
    """The confusion matrix of every resample, ``Float[R, C, C]``."""
    confusion = statistics["confusion"].astype(np.float64)
    return (weights @ confusion.reshape(len(confusion), -1)).reshape(len(weights), *confusion.shape[1:])


def _parts(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Hits, true and predicted pixels of every class, three times ``Float[..., C]``."""
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)


def iou(counts: Counts) -> NDArray[np.float64]:
    """Intersection over union of every class, ``Float[..., C]``; NaN for a class that is nowhere."""
    hit, true, predicted = _parts(counts)
    return ratio(hit, true + predicted - hit)


def recall(counts: Counts) -> NDArray[np.float64]:
    """Share of the pixels of every class that are found; NaN for a class without pixels in the truth."""
    hit, true, _ = _parts(counts)
    return ratio(hit, true)


def f1(counts: Counts) -> NDArray[np.float64]:
    """F1 (Dice) of every class; NaN for a class that is nowhere."""
    hit, true, predicted = _parts(counts)
    return ratio(2 * hit, true + predicted)


OfClasses = Callable[[Counts], NDArray[np.float64]]


def _mean(of_classes: OfClasses, statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    return _over_classes(of_classes(summed(statistics, weights)), labels)


def _over_classes(values: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """The mean over classes, ``Float[..., C]`` -> ``Float[...]``."""
    if labels.absent_classes == "zero":
        values = np.nan_to_num(values)
    if labels.ignored is not None and 0 <= labels.ignored < values.shape[-1]:
        values = np.delete(values, labels.ignored, axis=-1)
    return mean_of_known(values)


def _of_one(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    values = iou(summed(statistics, weights))[:, 1]
    return np.nan_to_num(values) if labels.absent_classes == "zero" else values


def _per_class(begin: str, of_classes: OfClasses, statistics: Statistics, weights: Weights, labels: Labels) -> Values:
    values = of_classes(summed(statistics, weights))
    if labels.absent_classes == "zero":
        values = np.nan_to_num(values)
    return {f"{begin}_{labels.name(label)}": values[:, label] for label in range(values.shape[1])}


def pixel_accuracy(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """Share of the pixels that are right, ``Float[R]``."""
    counts = summed(statistics, weights)
    return ratio(np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2)))


def frequency_weighted_iou(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """The mean IoU of the classes, weighted by their pixels in the truth, ``Float[R]``."""
    counts = summed(statistics, weights)
    return weighted_mean_of(iou(counts), counts.sum(axis=2))


def image_miou(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """The mean over samples of the mean IoU of the classes in each, ``Float[R]``; small samples count as large ones."""
    values = _over_classes(iou(statistics["confusion"].astype(np.float64)), labels)
    known = ~np.isnan(values)
    return average(values[known], weights[:, known])


def has_bins(statistics: Statistics) -> bool:
    """Whether the confidences of pixels are stored, see :class:`SemanticSegmentationTask` (``calibration``)."""
    bins, brier = statistics.get("calibration"), statistics.get("brier_sum")
    return bins is not None and bins.ndim == 3 and bins.shape[2] == 3 and brier is not None and brier.ndim == 1


def calibration_error(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """Expected calibration error of the pixels, ``Float[R]``, as torchmetrics' ``MulticlassCalibrationError``."""
    bins = statistics["calibration"].astype(np.float64)
    sums = (weights @ bins.reshape(len(bins), -1)).reshape(len(weights), *bins.shape[1:])
    return ratio(np.abs(sums[:, :, 1] - sums[:, :, 2]).sum(axis=1), sums[:, :, 0].sum(axis=1))


def brier(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """The mean squared error of the probabilities of pixels, ``Float[R]``; the sum over classes, of two the half."""
    pixels = statistics["calibration"][:, :, 0].astype(np.float64).sum(axis=1)
    return ratio(weights @ statistics["brier_sum"].astype(np.float64), weights @ pixels)


def _two(statistics: Statistics) -> bool:
    return has_confusion(statistics) and statistics["confusion"].shape[1] == 2


_NEEDS = "`confusion` of a segmentation"
_BINS = "confidences of pixels (`calibration: true` of SemanticSegmentationTask)"
METRICS = (
    Metric("miou", has_confusion, _NEEDS, partial(_mean, iou)),
    Metric("macc", has_confusion, _NEEDS, partial(_mean, recall)),
    Metric("mf1", has_confusion, _NEEDS, partial(_mean, f1), others=("mdice",)),
    Metric("pixel_accuracy", has_confusion, _NEEDS, pixel_accuracy),
    Metric("iou", _two, f"{_NEEDS} of two classes", _of_one),
    Metric("fwiou", has_confusion, _NEEDS, frequency_weighted_iou),
    Metric("image_miou", has_confusion, _NEEDS, image_miou),
    Metric("ece", has_bins, _BINS, calibration_error, "min"),
    Metric("brier", has_bins, _BINS, brier, "min"),
    Metric("iou", has_confusion, _NEEDS, partial(_per_class, "iou", iou), per_class=True),
    Metric("recall", has_confusion, _NEEDS, partial(_per_class, "recall", recall), per_class=True),
    Metric("f1", has_confusion, _NEEDS, partial(_per_class, "f1", f1), per_class=True),
)
