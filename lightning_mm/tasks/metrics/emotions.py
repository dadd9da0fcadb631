"""Accuracy and F1 of several labels that are each there or not, such as emotions.

Shapes: B samples, E labels; predictions and targets are ``Int[B, E]`` of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, Int64, Real
from torch import Tensor
from torchmetrics import Metric

from lightning_mm.tasks.metrics.sentiment import accuracy_and_f1


def label_confusion(
    prediction: Int[Tensor, "batch label"], target: Int[Tensor, "batch label"]
) -> Int64[Tensor, "batch label 2 2"]:
    """A one in the cell (truth, prediction) of every label of every sample.

    Example:
        >>> label_confusion(torch.tensor([[1]]), torch.tensor([[0]])).tolist()
        [[[[0, 1], [0, 0]]]]
    """
    cell = torch.nn.functional.one_hot((2 * target + prediction).long(), 4)
    return cell.unflatten(-1, (2, 2))


def emotion_metrics(confusion: Real[Tensor, "label 2 2"], names: Sequence[str]) -> dict[str, float]:
    """``acc_<label>`` and ``f1_<label>``, and their means over labels, ``mean_acc`` and ``mean_f1``.

    F1 is that of both classes of a label, weighted by how often each is true.

    Args:
        confusion: Sum of :func:`label_confusion` over samples.
        names: Names of the labels.

    Reference:
        The evaluation of IEMOCAP in the code of MulT, arXiv 1906.00295.
    """
    metrics: dict[str, float] = {}
    scores = []
    for name, counts in zip(names, confusion.double().cpu().tolist()):
        (_, false), (lost, hits) = counts
        samples = sum(map(sum, counts))
        accuracy, f1, _ = accuracy_and_f1(samples, hits + false, hits + lost, hits)
        metrics[f"acc_{name}"], metrics[f"f1_{name}"] = accuracy, f1
        scores.append((accuracy, f1))
    means = torch.tensor(scores, dtype=torch.float64).mean(0).tolist()
    return {**metrics, "mean_acc": means[0], "mean_f1": means[1]}


class EmotionMetrics(Metric):
    """:func:`emotion_metrics` of an epoch, a dict of scalars.

    Args:
        names: Names of the labels.

    Shape:
        ``update`` takes predictions and targets, ``Int[B, E]`` of 0 and 1.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.add_state("confusion", torch.zeros(len(self.names), 2, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Int[Tensor, "batch label"], target: Int[Tensor, "batch label"]) -> None:
        self.confusion += label_confusion(preds, target).sum(0)

    def compute(self) -> dict[str, Tensor]:
        found = emotion_metrics(self.confusion, self.names)
        return {name: torch.tensor(value, device=self.confusion.device) for name, value in found.items()}
