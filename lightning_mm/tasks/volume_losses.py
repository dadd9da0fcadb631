"""The losses of the official code for BraTS: Dice over a whole batch, and cross entropy that favours rare classes.

Shapes: B samples, K classes; ``*size`` is height and width of images, or depth, height and width of volumes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.tasks.losses import at_least_float

_FLOOR = 0.005
"""Least probability whose logarithm is taken."""


class BatchDiceLoss(nn.Module):
    """One minus Dice over all samples and positions of a batch, the mean of all classes, background too.

    A class that is in neither truth nor prediction has Dice 0. In a distributed run it is that of each process.

    Args:
        ignore_index: The label of positions that do not count.

    Reference:
        ``dice_loss`` of mmFormer and RFNet; own code, checked with values of the official one.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(
        self, logits: Float[Tensor, "batch klass *size"], target: Int64[Tensor, "batch ..."]
    ) -> Float[Tensor, ""]:
        probability, truth = _valid(logits, target, self.ignore_index)
        hit, size = (truth * probability).sum((0, 2)), (truth + probability).sum((0, 2))
        return 1 - (2 * hit / (size + 1e-7)).mean()


class RareClassCrossEntropyLoss(nn.Module):
    """Cross entropy in which a class weighs one minus its share of the positions of a sample.

    The mean is over all samples and positions, those to be ignored too; log probabilities are floored at that of 0.005.

    Args:
        ignore_index: The label of positions that do not count.

    Reference:
        ``softmax_weighted_loss`` of mmFormer and RFNet; own code, checked with values of the official one.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(
        self, logits: Float[Tensor, "batch klass *size"], target: Int64[Tensor, "batch ..."]
    ) -> Float[Tensor, ""]:
        probability, truth = _valid(logits, target, self.ignore_index)
        weight = 1 - truth.sum(2, keepdim=True) / truth.sum((1, 2), keepdim=True).clamp(min=1)
        losses = -(weight * truth * probability.clamp(_FLOOR, 1.0).log()).sum(1)
        return losses.mean()


def _valid(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot truth, ``[B, K, positions]``, zero where nothing counts."""
    probability = at_least_float(logits).softmax(1).flatten(2)
    valid = (target != ignore_index).flatten(1).unsqueeze(1)
    labels = torch.where(target == ignore_index, 0, target).flatten(1)
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1) * valid
    return probability * valid, truth.to(probability.dtype)
