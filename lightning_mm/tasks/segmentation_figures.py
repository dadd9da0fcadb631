"""Confusion matrices of samples and the figures made of them: pure functions, and one shell over an epoch.

Shapes: B samples, C classes, H x W pixels; a confusion matrix has the truth in rows, the prediction in columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int, Int64, Real
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

AbsentClasses = Literal["skip", "zero"]
"""What a class that is in neither truth nor prediction counts: ``skip`` it has no IoU, ``zero`` its IoU is 0."""


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


def segmentation_figures(
    confusion: Real[Tensor, "class class"],
    class_names: Sequence[str],
    ignore_index: int,
    absent_classes: AbsentClasses = "skip",
) -> dict[str, float]:
    """``miou``, ``iou_<class>`` and ``pixel_accuracy`` of a confusion matrix; of two classes also ``iou`` (class 1).

    A class that is in neither truth nor prediction has no IoU (NaN) and is left out of the mean unless
    ``absent_classes`` is ``zero``; the ignored class is always left out if it is one of the classes.

    Args:
        confusion: ``Int[C, C]``.
        class_names: One name per class.
        ignore_index: The label that was left out of the counts.
        absent_classes: Whether the IoU of a class that is nowhere is none or 0, as the code of CMNeXt has it.
    """
    counts = confusion.double().cpu()
    hit = counts.diagonal()
    iou = hit / (counts.sum(0) + counts.sum(1) - hit)
    if absent_classes == "zero":
        iou = iou.nan_to_num(0.0)
    counted = ~iou.isnan()
    if 0 <= ignore_index < len(class_names):
        counted[ignore_index] = False
    figures = {"miou": iou[counted].mean().item(), "pixel_accuracy": (hit.sum() / counts.sum()).item()}
    figures |= {f"iou_{name}": value for name, value in zip(class_names, iou.tolist())}
    if len(class_names) == 2:
        figures["iou"] = iou[1].item()
    return figures


class MeanOverAllClasses(MulticlassJaccardIndex):
    """The mean IoU in which a class that is nowhere counts 0; that of torchmetrics leaves it out of the mean."""

    def __init__(self, num_classes: int, ignore_index: int, **settings: Any) -> None:
        super().__init__(num_classes, average="none", ignore_index=ignore_index, zero_division=0.0, **settings)
        self.counted = [label for label in range(num_classes) if label != ignore_index]

    def compute(self) -> Tensor:
        return super().compute()[self.counted].mean()
