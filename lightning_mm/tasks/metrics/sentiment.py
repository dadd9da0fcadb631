"""Metrics of sentiment analysis: pure functions, and torchmetrics metrics that apply them to an epoch.

Shapes: N samples; prediction and target are ``Float[N]``, the target in [-3, 3].
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MulticlassF1Score
from torchmetrics.utilities import dim_zero_cat

Convention = Literal["has0", "non0", "positive"]
"""``has0``: non-negative against negative; ``non0``: positive against negative, samples with label zero left out;
``positive``: positive against all else, which the code of MulT reports when it keeps the zeros."""


def polarity(
    prediction: Float[Tensor, " sample"], target: Float[Tensor, " sample"], convention: Convention
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " kept"]]:
    """Class 0 or 1 of predictions and labels.

    Shape:
        ``Float[N]`` twice -> ``Int64[n]`` twice; n < N only where ``non0`` leaves samples out.

    Example:
        >>> polarity(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.0, -2.0, 1.0]), "non0")
        (tensor([0, 0]), tensor([0, 1]))
    """
    if convention == "has0":
        return (prediction >= 0).long(), (target >= 0).long()
    if convention == "non0":
        kept = target != 0
        prediction, target = prediction[kept], target[kept]
    return (prediction > 0).long(), (target > 0).long()


def polarity_metrics(
    prediction: Float[Tensor, " sample"],
    target: Float[Tensor, " sample"],
    convention: Convention,
    swapped: bool = False,
) -> tuple[float, float]:
    """Accuracy and weighted F1 of the sign; NaN if no sample counts.

    Args:
        prediction: ``Float[N]``.
        target: ``Float[N]``.
        convention: What the two classes are.
        swapped: Weight the F1 of a class by how often it is predicted and not by how often it is true. The reference
            code of MulT does, since it gives scikit-learn's ``f1_score`` the prediction as the truth; many published
            F1 are of this kind. Of our metrics ``f1_non0_swapped`` is, the other ``f1_*`` are not.

    Reference:
        MulT, arXiv 1906.00295.
    """
    return binary_metrics(*polarity(prediction, target, convention), swapped)


def binary_metrics(
    prediction: Int[Tensor, " sample"], target: Int[Tensor, " sample"], swapped: bool = False
) -> tuple[float, float]:
    """Accuracy and weighted F1 of classes 0 and 1, ``Int[N]`` twice; see :func:`polarity_metrics` for ``swapped``."""
    accuracy, f1, f1_swapped = _of_classes(prediction, target)
    return accuracy, f1_swapped if swapped else f1


def _of_classes(prediction: Int[Tensor, " sample"], target: Int[Tensor, " sample"]) -> tuple[float, float, float]:
    # Three counts are enough, and much faster than a confusion matrix.
    hits = int((prediction * target).sum())
    return accuracy_and_f1(len(target), int(prediction.sum()), int(target.sum()), hits)


def accuracy_and_f1(samples: float, predicted: float, true: float, hits: float) -> tuple[float, float, float]:
    """Accuracy, and F1 weighted by how often a class is true and by how often it is predicted; NaN without samples.

    Args:
        samples: Number of samples.
        predicted: How many of them are predicted to be of class 1.
        true: How many are of class 1.
        hits: How many are both.
    """
    if not samples:
        return math.nan, math.nan, math.nan
    hits_of_zero = samples - predicted - true + hits
    of_one = 2 * hits / max(predicted + true, 1)
    of_zero = 2 * hits_of_zero / max(2 * samples - predicted - true, 1)
    f1, swapped = (weight / samples * of_one + (1 - weight / samples) * of_zero for weight in (true, predicted))
    return (hits + hits_of_zero) / samples, f1, swapped


def rounded(values: Float[Tensor, " sample"], limit: int) -> Float[Tensor, " sample"]:
    """Whole classes ``-limit`` to ``limit``: clipped, then rounded, halves to the even number.

    Example:
        >>> rounded(torch.tensor([0.5, 1.5, -2.5, 4.0]), limit=3)
        tensor([ 0.,  2., -2.,  3.])
    """
    return values.clamp(-limit, limit).round()


def pearson(prediction: Float[Tensor, " sample"], target: Float[Tensor, " sample"]) -> float:
    """Pearson's r; NaN if predictions or targets are all the same, or there are fewer than two."""
    if len(target) < 2 or bool((prediction == prediction[0]).all()) or bool((target == target[0]).all()):
        return math.nan
    x, y = prediction.double(), target.double()
    x, y = x - x.mean(), y - y.mean()
    return (x @ y / (x @ x).sqrt() / (y @ y).sqrt()).item()


def sentiment_metrics(prediction: Float[Tensor, " sample"], target: Float[Tensor, " sample"]) -> dict[str, float]:
    """``mae``, ``pearson``, ``acc7``, ``acc5``, and accuracy and F1 of the sign in several conventions.

    ``acc2_has0`` and ``f1_has0``: non-negative against negative; ``acc2_non0`` and ``f1_non0``: positive against
    negative, samples with label zero left out. F1 is weighted by how often a class is true, but ``f1_non0_swapped``,
    which is comparable with the code of MulT, by how often it is predicted.
    """
    metrics = {
        "mae": (prediction.double() - target.double()).abs().mean().item(),
        "pearson": pearson(prediction, target),
        "acc7": (rounded(prediction, 3) == rounded(target, 3)).double().mean().item(),
        "acc5": (rounded(prediction, 2) == rounded(target, 2)).double().mean().item(),
    }
    metrics["acc2_has0"], metrics["f1_has0"] = polarity_metrics(prediction, target, "has0")
    accuracy, f1, swapped = _of_classes(*polarity(prediction, target, "non0"))
    return metrics | {"acc2_non0": accuracy, "f1_non0": f1, "f1_non0_swapped": swapped}


class Pearson(Metric):
    """Pearson's r of an epoch.

    Keeps all pairs: the running variances of torchmetrics' own give constant predictions a finite r, and a warning.
    """

    full_state_update = False
    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.preds.append(preds)
        self.target.append(target)

    def compute(self) -> Tensor:
        preds = dim_zero_cat(self.preds)
        return torch.tensor(pearson(preds, dim_zero_cat(self.target)), device=preds.device)


class RoundedAccuracy(MulticlassAccuracy):
    """Accuracy of classes ``-limit`` to ``limit``, see :func:`rounded`."""

    def __init__(self, limit: int) -> None:
        super().__init__(num_classes=2 * limit + 1, average="micro", validate_args=False)
        self.limit = limit

    def update(self, preds: Tensor, target: Tensor) -> None:
        classes = [(rounded(values, self.limit) + self.limit).long() for values in (preds, target)]
        super().update(*classes)


class PolarityAccuracy(BinaryAccuracy):
    """Accuracy of the sign, see :func:`polarity`."""

    def __init__(self, convention: Convention) -> None:
        super().__init__(validate_args=False)
        self.convention: Convention = convention

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(*polarity(preds, target, self.convention))


class PolarityF1(MulticlassF1Score):
    """Weighted F1 of the sign, see :func:`polarity`, and :func:`polarity_metrics` for ``swapped``."""

    def __init__(self, convention: Convention, swapped: bool = False) -> None:
        super().__init__(num_classes=2, average="weighted", validate_args=False)
        self.convention: Convention = convention
        self.swapped = swapped

    def update(self, preds: Tensor, target: Tensor) -> None:
        predicted, true = polarity(preds, target, self.convention)
        super().update(*((true, predicted) if self.swapped else (predicted, true)))
