"""Metrics of segmentation from the confusion matrices of samples: pure functions, and one torchmetrics metric.

Shapes: B samples, C classes, H x W pixels; a confusion matrix has the truth in rows, the prediction in columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Int, Int64, Real
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

AbsentClasses = Literal["skip", "zero"]
"""What the metric of a class is if it is 0/0, since the class is nowhere: ``skip``, NaN; ``zero``, 0."""

ClassMetric = Literal["iou", "acc", "f1"]
"""Metrics of one class: intersection over union, recall (the accuracy of its pixels), F1."""


def confusion_per_sample(
    prediction: Int[Tensor, " batch *pixels"],
    target: Int[Tensor, " batch *pixels"],
    num_classes: int,
    ignore_index: int,
) -> Int64[Tensor, "batch {num_classes} {num_classes}"]:
    """Counts of (truth, prediction) pairs in every sample, pixels of ``ignore_index`` left out.

    Shape:
        ``Int[B, ...]`` twice -> ``Int64[B, C, C]``.

    Example:
        >>> confusion_per_sample(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 9]]), num_classes=2, ignore_index=9)
        tensor([[[1, 1],
                 [0, 0]]])
    """
    prediction, target = prediction.flatten(1), target.flatten(1)
    valid = target != ignore_index
    row = torch.arange(len(target), device=target.device)[:, None].expand_as(target)
    cell = (row * num_classes + target) * num_classes + prediction
    counts = torch.bincount(cell[valid], minlength=len(target) * num_classes**2)
    return counts.view(len(target), num_classes, num_classes)


def calibration_per_sample(
    logits: Float[Tensor, "batch class *pixels"],
    target: Int[Tensor, " batch *pixels"],
    ignore_index: int,
    bins: int = 15,
) -> dict[str, Float[Tensor, " batch ..."]]:
    """What calibration error and Brier score need of the pixels of every sample, those of ``ignore_index`` left out.

    Shape:
        ``Float[B, C, ...]`` and ``Int[B, ...]`` -> ``calibration`` ``Float[B, bins + 1, 3]``: number of pixels, sum of
        their confidences and number of right ones, by confidence (the last bin is that of 1); ``brier_sum``
        ``Float[B]``: sum over the pixels of the squared error of the probabilities, of two classes the half.
    """
    probability, valid = logits.float().softmax(dim=1).flatten(2), (target != ignore_index).flatten(1)
    label = torch.where(valid, target.flatten(1), 0)[:, None]
    confidence, prediction = probability.max(dim=1)
    right = prediction == label[:, 0]
    edges = torch.linspace(0, 1, bins + 1, device=confidence.device)
    place = torch.bucketize(confidence, edges, right=True) - 1
    # a loop, and no scattered sums: these differ from run to run on a GPU
    inside = [valid & (place == one) for one in range(bins + 1)]
    sums = [torch.stack([one.sum(1), (one * confidence).sum(1), (one & right).sum(1)], dim=1) for one in inside]
    error = probability.scatter_add(1, label, torch.full_like(confidence, -1.0)[:, None]).square().sum(dim=1)
    share = 0.5 if logits.shape[1] == 2 else 1.0
    return {"calibration": torch.stack(sums, dim=1).float(), "brier_sum": share * (error * valid).sum(dim=1)}


def class_metrics(
    confusion: Real[Tensor, "class class"], absent_classes: AbsentClasses = "skip"
) -> dict[ClassMetric, Float64[Tensor, " class"]]:
    """IoU, recall and F1 of every class; what is 0/0 is NaN, or 0 if ``absent_classes`` is ``zero``.

    IoU and F1 are 0/0 for a class that is in neither truth nor prediction. Recall is so for every class without a
    pixel in the truth, predicted or not: nothing was there to be found.

    Shape:
        ``Int[C, C]`` -> three times ``Float64[C]``, on the CPU.

    Example:
        >>> class_metrics(torch.tensor([[3, 1], [0, 0]]))["acc"]
        tensor([0.7500,    nan], dtype=torch.float64)
    """
    counts = confusion.double().cpu()
    hit, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    metrics: dict[ClassMetric, Tensor] = {
        "iou": hit / (truth + predicted - hit),
        "acc": hit / truth,
        "f1": 2 * hit / (truth + predicted),
    }
    return {name: value.nan_to_num(0.0) for name, value in metrics.items()} if absent_classes == "zero" else metrics


def mean_over_classes(values: Float64[Tensor, " class"], ignore_index: int) -> Float64[Tensor, ""]:
    """The mean of the classes that have a value, that of ``ignore_index`` left out if it is one of the classes."""
    counted = ~values.isnan()
    if 0 <= ignore_index < len(values):
        counted[ignore_index] = False
    return values[counted].mean()


def segmentation_metrics(
    confusion: Real[Tensor, "class class"],
    class_names: Sequence[str],
    ignore_index: int,
    absent_classes: AbsentClasses = "skip",
) -> dict[str, float]:
    """Metrics of a confusion matrix.

    ``miou``, ``macc`` and ``mf1`` are means over the classes of IoU, recall and F1, see :func:`class_metrics` for
    classes without a value. ``macc`` is the mean class accuracy (mAcc) of papers on RGB and thermal images, and not
    ``pixel_accuracy``, the share of pixels that are right. There is an ``iou_<class>`` for every class; with two
    classes also ``iou``, that of class 1.

    Args:
        confusion: ``Int[C, C]``.
        class_names: One name per class.
        ignore_index: The label that was left out of the counts; if it is one of the classes, so it is of the means.
        absent_classes: Whether a metric of a class that is 0/0 is NaN and left out of the mean, or 0 and counts, as in
            the code of CMNeXt.
    """
    of_classes = class_metrics(confusion, absent_classes)
    metrics = {f"m{name}": mean_over_classes(values, ignore_index).item() for name, values in of_classes.items()}
    counts = confusion.double().cpu()
    metrics["pixel_accuracy"] = (counts.diagonal().sum() / counts.sum()).item()
    iou = of_classes["iou"].tolist()
    metrics |= {f"iou_{name}": value for name, value in zip(class_names, iou)}
    if len(class_names) == 2:
        metrics["iou"] = iou[1]
    return metrics


class MeanOverClasses(MulticlassConfusionMatrix):
    """The mean of a metric over the classes of an epoch, in the conventions of :func:`segmentation_metrics`.

    The macro averages of torchmetrics have other conventions: recall counts 0 for a class that is predicted but not in
    the truth, recall and F1 do so for the ignored class if it is predicted, and a class that is nowhere never counts.
    """

    def __init__(
        self, metric: ClassMetric, num_classes: int, ignore_index: int, absent_classes: AbsentClasses, **settings: Any
    ) -> None:
        super().__init__(num_classes, ignore_index=ignore_index, **settings)
        self.metric: ClassMetric = metric
        self.left_out, self.absent_classes = ignore_index, absent_classes

    def compute(self) -> Tensor:
        confusion = super().compute()
        values = class_metrics(confusion, self.absent_classes)[self.metric]
        return mean_over_classes(values, self.left_out).to(confusion.device, torch.float32)
