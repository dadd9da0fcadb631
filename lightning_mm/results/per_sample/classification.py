"""Metrics of classification from the predictions, labels and probabilities of samples; without torch.

Conventions are those of :mod:`lightning_mm.tasks.metrics.classification`, and torchmetrics' and scikit-learn's for what
is only here. Shapes: n samples, C classes, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_mm.results.per_sample.metric import Labels, Metric, Statistics, Values
from lightning_mm.results.per_sample.weighted import (
    Weights,
    area_under_roc,
    average,
    counts_of,
    mean_of_known,
    ratio,
    weighted_mean_of,
)

BINS = 15
"""Bins of the expected calibration error, as in torchmetrics."""
SMALLEST = float(np.finfo(np.float32).tiny)
"""The smallest probability that the log likelihood takes."""


def has_classes(statistics: Statistics) -> bool:
    """Whether predictions and targets are one whole number per sample."""
    pair = [statistics.get(name) for name in ("prediction", "target")]
    return all(one is not None and one.ndim == 1 and one.dtype.kind in "iub" for one in pair)


def has_score(statistics: Statistics) -> bool:
    """Whether there is a probability of class 1 of two, ``score``."""
    return has_classes(statistics) and "score" in statistics and statistics["score"].ndim == 1


def has_probabilities(statistics: Statistics) -> bool:
    """Whether probabilities are known well enough for the calibration."""
    names = ("confidence", "target_probability", "brier")
    return has_score(statistics) or (has_classes(statistics) and all(name in statistics for name in names))


@dataclass(frozen=True)
class Probabilities:
    """What the calibration needs of each sample.

    Args:
        confidence: Probability of the predicted class, ``Float[n]``.
        target: Probability of the true class, ``Float[n]``.
        brier: Squared error of the probabilities, ``Float[n]``: the sum over classes, halved for two.
    """

    confidence: NDArray[np.floating]
    target: NDArray[np.floating]
    brier: NDArray[np.floating]


def probabilities_of(statistics: Statistics) -> Probabilities:
    """Read the probabilities of samples, or compute them from the score of two classes."""
    if not has_score(statistics):
        return Probabilities(*(statistics[name] for name in ("confidence", "target_probability", "brier")))
    score, target = statistics["score"].astype(np.float32), statistics["target"].astype(np.int64)
    right = np.where(target == 1, score, 1 - score)
    return Probabilities(np.maximum(score, 1 - score), right, (1 - right) ** 2)


def number_of_classes(statistics: Statistics) -> int:
    """One more than the largest label."""
    pair = (statistics["prediction"], statistics["target"])
    return 1 + max((int(one.max()) for one in pair if len(one)), default=-1)


def _hits(statistics: Statistics) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = statistics["prediction"].astype(np.int64) == statistics["target"].astype(np.int64)
    return same


def _marginals(statistics: Statistics, weights: Weights, labels: Labels) -> tuple[NDArray[np.float64], ...]:
    """Hits, true and predicted of every class, three times ``Float[R, C]``."""
    prediction, target = (statistics[name].astype(np.int64) for name in ("prediction", "target"))
    number = max(number_of_classes(statistics), labels.number)
    hit = np.where(prediction == target, target, -1)
    return tuple(counts_of(classes, number, weights) for classes in (hit, target, prediction))


def accuracy(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """Share of samples that are right, ``Float[R]``."""
    return average(_hits(statistics), weights)


def balanced_accuracy(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """The mean recall of the classes that are in the truth, ``Float[R]``."""
    hit, true, _ = _marginals(statistics, weights, labels)
    return mean_of_known(ratio(hit, true))


def _f1(statistics: Statistics, weights: Weights, labels: Labels) -> tuple[NDArray[np.float64], ...]:
    hit, true, predicted = _marginals(statistics, weights, labels)
    return ratio(2 * hit, true + predicted), true


def macro_f1(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """The mean F1 of the classes that are in truth or prediction, ``Float[R]``."""
    return mean_of_known(_f1(statistics, weights, labels)[0])


def weighted_f1(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """The mean F1 of the classes, weighted by how often each is true, ``Float[R]``."""
    return weighted_mean_of(*_f1(statistics, weights, labels))


def kappa(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """Cohen's kappa: agreement above that of chance, ``Float[R]``."""
    _, true, predicted = _marginals(statistics, weights, labels)
    total = weights.sum(axis=1)
    chance = ratio((true * predicted).sum(axis=1), total**2)
    return ratio(accuracy(statistics, weights, labels) - chance, 1 - chance)


def auroc(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """Area under the ROC of the probability of class 1, ``Float[R]``."""
    return area_under_roc(statistics["score"], statistics["target"], weights)


def calibration_error(
    statistics: Statistics, weights: Weights, labels: Labels | None = None, bins: int = BINS
) -> NDArray[np.float64]:
    """Expected calibration error of the predicted class, ``Float[R]``: the mean gap of confidence and accuracy.

    Equal to torchmetrics' ``MulticlassCalibrationError(norm="l1")``, also for two classes, where its binary one
    compares the probability of class 1 with how often that class is true.

    Reference:
        Guo et al., On calibration of modern neural networks (arXiv 1706.04599), section 2.
    """
    confidence = probabilities_of(statistics).confidence.astype(np.float32)
    edges = np.linspace(0, 1, bins + 1).astype(np.float32)
    places = np.searchsorted(edges, confidence, side="right") - 1  # a confidence of 1 is in a bin of its own
    gap = _hits(statistics).astype(np.float64) - confidence.astype(np.float64)
    member = (places[:, None] == np.arange(bins + 1)).astype(np.float64)
    return ratio(np.abs(weights @ (member * gap[:, None])).sum(axis=1), weights.sum(axis=1))


def brier(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """The mean squared error of the probabilities, ``Float[R]``.

    The sum over classes, 0 to 2; of two classes the half, ``(p - y)^2``, as in scikit-learn's ``brier_score_loss``.
    """
    return average(probabilities_of(statistics).brier, weights)


def nll(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """The mean negative log likelihood of the true class, in nats, ``Float[R]``."""
    return average(-np.log(np.maximum(probabilities_of(statistics).target.astype(np.float64), SMALLEST)), weights)


def has_vqa_score(statistics: Statistics) -> bool:
    """Whether the value of each answer is stored, ``vqa_score``."""
    return "vqa_score" in statistics and statistics["vqa_score"].ndim == 1


def vqa_score(statistics: Statistics, weights: Weights, labels: Labels) -> NDArray[np.float64]:
    """The mean value that the targets give to the answers, ``Float[R]``."""
    return average(statistics["vqa_score"], weights)


def _named(values: NDArray[np.float64], begin: str, labels: Labels) -> Values:
    return {f"{begin}_{labels.name(label)}": values[:, label] for label in range(values.shape[1])}


def recall_per_class(statistics: Statistics, weights: Weights, labels: Labels) -> Values:
    """``recall_<class>``, the accuracy of the samples of a class; NaN if it has none."""
    hit, true, _ = _marginals(statistics, weights, labels)
    return _named(ratio(hit, true), "recall", labels)


def precision_per_class(statistics: Statistics, weights: Weights, labels: Labels) -> Values:
    """``precision_<class>``, how often a prediction of the class is right; NaN if it is never predicted."""
    hit, _, predicted = _marginals(statistics, weights, labels)
    return _named(ratio(hit, predicted), "precision", labels)


def f1_per_class(statistics: Statistics, weights: Weights, labels: Labels) -> Values:
    """``f1_<class>``; NaN for a class that is in neither truth nor prediction."""
    return _named(_f1(statistics, weights, labels)[0], "f1", labels)


_CLASSES = "`prediction` and `target` of a classification"
_SCORE = "`score`, the probability of class 1 of two"
_PROBABILITIES = (
    "probabilities (`score` of two classes; `confidence`, `target_probability` and `brier` of more, which sweeps store "
    "since this version)"
)
METRICS = (
    Metric("accuracy", has_classes, _CLASSES, accuracy, others=("acc2",)),
    Metric("balanced_accuracy", has_classes, _CLASSES, balanced_accuracy),
    Metric("macro_f1", has_classes, _CLASSES, macro_f1),
    Metric("weighted_f1", has_classes, _CLASSES, weighted_f1, others=("f1",)),
    Metric("kappa", has_classes, _CLASSES, kappa),
    Metric("auroc", has_score, _SCORE, auroc),
    Metric("ece", has_probabilities, _PROBABILITIES, calibration_error, "min"),
    Metric("brier", has_probabilities, _PROBABILITIES, brier, "min"),
    Metric("nll", has_probabilities, _PROBABILITIES, nll, "min"),
    Metric("vqa_score", has_vqa_score, "`vqa_score` of answers to questions", vqa_score),
    Metric("recall", has_classes, _CLASSES, recall_per_class, per_class=True),
    Metric("precision", has_classes, _CLASSES, precision_per_class, per_class=True),
    Metric("f1", has_classes, _CLASSES, f1_per_class, per_class=True),
)
