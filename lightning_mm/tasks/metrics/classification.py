"""Metrics of classification from predictions and labels: pure functions, and the AUROC as a torchmetrics metric.

Shapes: N samples, C classes; a confusion matrix has the truth in rows, the prediction in columns.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64, Int, Int64, Real
from torch import Tensor
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities import dim_zero_cat


def confusion_matrix(
    prediction: Int[Tensor, " sample"], target: Int[Tensor, " sample"], num_classes: int
) -> Int64[Tensor, "{num_classes} {num_classes}"]:
    """Counts of (truth, prediction) pairs.

    Shape:
        ``Int[N]`` twice -> ``Int64[C, C]``.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), num_classes=2)
        tensor([[1, 1],
                [0, 1]])
    """
    cell = target.long() * num_classes + prediction
    return torch.bincount(cell, minlength=num_classes**2).view(num_classes, num_classes)


def f1_per_class(confusion: Real[Tensor, "class class"]) -> Float64[Tensor, " class"]:
    """F1 of every class, ``Float64[C]``; NaN for a class that is in neither truth nor prediction."""
    counts = confusion.double()
    return 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))


def macro_f1(confusion: Real[Tensor, "class class"]) -> float:
    """The mean F1 of the classes that are in truth or prediction, as in torchmetrics (``average="macro"``).

    NaN without samples, where torchmetrics has 0.
    """
    return f1_per_class(confusion).nanmean().item()


def weighted_f1(confusion: Real[Tensor, "class class"]) -> float:
    """The mean F1 of the classes, weighted by how often each is true; NaN without samples."""
    support = confusion.sum(1).double()
    return ((support * f1_per_class(confusion).nan_to_num(0.0)).sum() / support.sum()).item()


def auroc(score: Float[Tensor, " sample"], target: Int[Tensor, " sample"]) -> float:
    """Probability that a sample of class 1 has a higher score than one of class 0; ties count half.

    NaN if one of the classes is absent or a score is NaN; otherwise as in torchmetrics.

    Shape:
        ``Float[N]`` and ``Int[N]`` (0 or 1).

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([0, 0, 1, 1]))
        0.875
    """
    positive, negative = score[target == 1], score[target == 0].sort().values
    pairs = len(positive) * len(negative)
    if not pairs or score.isnan().any():
        return math.nan
    below = torch.searchsorted(negative, positive).sum() + torch.searchsorted(negative, positive, right=True).sum()
    return below.item() / 2 / pairs


def majority_share(target: Int[Tensor, " sample"]) -> float:
    """Share of the most frequent label: the accuracy of always guessing it; NaN without samples.

    Example:
        >>> majority_share(torch.tensor([0, 1, 1, 1]))
        0.75
    """
    if not target.numel():
        return math.nan
    return target.unique(return_counts=True)[1].max().item() / target.numel()


def class_one_probability(logits: Float[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
    """Probability of class 1 of two, ``Float[N, 2]`` -> ``Float32[N]``."""
    return logits.float().softmax(dim=1)[:, 1]


def probability_statistics(
    logits: Float[Tensor, "batch class"], target: Int[Tensor, " batch"]
) -> dict[str, Float[Tensor, " batch"]]:
    """What the calibration of any number of classes needs of each sample, in float32.

    ``confidence`` is the probability of the predicted class, ``target_probability`` that of the true one, and ``brier``
    the squared error of the probabilities, summed over the classes.

    Shape:
        ``Float[B, C]`` and ``Int[B]`` -> three times ``Float[B]``.

    Example:
        >>> {name: one.tolist() for name, one in probability_statistics(torch.zeros(1, 4), torch.tensor([2])).items()}
        {'confidence': [0.25], 'target_probability': [0.25], 'brier': [0.75]}
    """
    probability, place = logits.float().softmax(dim=1), target.long()[:, None]
    right = probability.gather(1, place)
    error = probability.scatter_add(1, place, torch.full_like(right, -1.0))
    return {
        "confidence": probability.amax(dim=1),
        "target_probability": right[:, 0],
        "brier": error.square().sum(dim=1),
    }


def classification_metrics(
    prediction: Int[Tensor, " sample"],
    target: Int[Tensor, " sample"],
    num_classes: int,
    score: Float[Tensor, " sample"] | None = None,
) -> dict[str, float]:
    """``accuracy`` and ``macro_f1``; with scores of class 1 also ``auroc``.

    Args:
        prediction: ``Int[N]``.
        target: ``Int[N]``.
        num_classes: Number of classes C.
        score: ``Float[N]``, the probability of class 1 of two.
    """
    confusion = confusion_matrix(prediction, target, num_classes)
    correct = confusion.diagonal().sum().item()
    metrics = {"accuracy": correct / len(target) if len(target) else math.nan, "macro_f1": macro_f1(confusion)}
    if score is not None:
        metrics["auroc"] = auroc(score, target)
    return metrics


class ClassOneAUROC(BinaryAUROC):
    """AUROC of the probability of class 1; given logits ``[B, 2]``. NaN and no warning if there is only one class."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(class_one_probability(preds), target)

    def compute(self) -> Tensor:  # type: ignore[override]
        target = dim_zero_cat(self.target)
        if bool((target == target[0]).all()):
            return torch.tensor(math.nan, device=target.device)
        return super().compute()
