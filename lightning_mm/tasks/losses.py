"""Losses of dense prediction with an ignored label.

Shapes: B samples, C classes, H x W pixels; logits are ``[B, C, H, W]``, targets ``Int64[B, H, W]``. Cross entropy and
Dice take volumes too, ``[B, C, D, H, W]`` and ``Int64[B, D, H, W]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


def at_least_float(logits: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """Float32, in which losses are computed, for half precision; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


class _Weighted(nn.Module):
    """Holds class weights outside the state dict, so that a base checkpoint fits whatever the loss."""

    weight: Float[Tensor, " class"] | None

    def __init__(self, ignore_index: int, weight: Sequence[float] | None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.register_buffer("weight", None if weight is None else torch.tensor(weight).float(), persistent=False)


class CrossEntropyLoss(_Weighted):
    """Cross entropy as in torch, but zero and not NaN if every pixel is ignored.

    Args:
        ignore_index: The label of pixels that do not count.
        weight: One weight per class; the mean is over the sum of the weights, as in torch.
    """

    def __init__(self, ignore_index: int = 255, weight: Sequence[float] | None = None) -> None:
        super().__init__(ignore_index, weight)

    def forward(
        self, logits: Float[Tensor, "batch class *size"], target: Int64[Tensor, "batch ..."]
    ) -> Float[Tensor, ""]:
        logits = at_least_float(logits)
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        total = F.cross_entropy(logits, target, weight, ignore_index=self.ignore_index, reduction="sum")
        norm = self.norm(target)
        return total / torch.where(norm > 0, norm, 1)

    def norm(self, target: Int64[Tensor, "batch ..."]) -> Tensor:
        """What the sum over pixels is divided by, a scalar: the number of those that count, or their weights."""
        valid = target != self.ignore_index
        return valid.sum() if self.weight is None else self.weight[target[valid]].sum()


class DiceLoss(nn.Module):
    """One minus the Dice coefficient, averaged over classes.

    Args:
        ignore_index: The label of pixels that do not count.
        per_sample: Dice of every sample, then the mean over samples; otherwise the batch counts as one large image,
            which is steadier if a class is in few samples.
        skip_absent: Leave out classes that are not in the truth (their Dice says nothing about the shape); the official
            code of DELIVER keeps them.
        smooth: Added to numerator and denominator.

    Reference:
        V-Net, arXiv 1606.04797; ``per_sample=True, skip_absent=False`` is the loss of DELIVER (arXiv 2303.01480).
    """

    def __init__(
        self, ignore_index: int = 255, per_sample: bool = False, skip_absent: bool = True, smooth: float = 1e-6
    ) -> None:
        super().__init__()
        self.ignore_index, self.smooth = ignore_index, smooth
        self.per_sample, self.skip_absent = per_sample, skip_absent

    def forward(
        self, logits: Float[Tensor, "batch class *size"], target: Int64[Tensor, "batch ..."]
    ) -> Float[Tensor, ""]:
        probability = at_least_float(logits).softmax(dim=1)
        valid = target != self.ignore_index
        truth = F.one_hot(torch.where(valid, target, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
        probability = probability * valid[:, None]
        places = tuple(range(2, logits.ndim))
        over = places if self.per_sample else (0, *places)
        hit, size = (truth * probability).sum(over), (truth + probability).sum(over)
        loss = 1 - (hit + self.smooth) / (size / 2 + self.smooth)
        if not self.skip_absent:
            return loss.mean()
        present = truth.sum(over) > 0
        return torch.where(present, loss, 0.0).sum() / present.sum().clamp(min=1)


class OhemCrossEntropyLoss(_Weighted):
    """Cross entropy of the hard pixels only: those whose true class got a probability below ``threshold``.

    If fewer than ``min_kept`` of the valid pixels are hard, the hardest ``min_kept`` are used. Class weights enter the
    comparison, and the mean is not weighted, as in the code of DELIVER.

    Args:
        threshold: Probability of the true class below which a pixel is hard.
        min_kept: Least share of the valid pixels of the batch.
        ignore_index: The label of pixels that do not count.
        weight: One weight per class.

    Reference:
        Shrivastava et al., arXiv 1604.03540; as in DELIVER (arXiv 2303.01480).
    """

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: float = 1 / 16,
        ignore_index: int = 255,
        weight: Sequence[float] | None = None,
    ) -> None:
        super().__init__(ignore_index, weight)
        self.limit, self.min_kept = -math.log(threshold), min_kept

    def forward(
        self, logits: Float[Tensor, "batch class height width"], target: Int64[Tensor, "batch height width"]
    ) -> Float[Tensor, ""]:
        logits = at_least_float(logits)
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        losses = F.cross_entropy(logits, target, weight, ignore_index=self.ignore_index, reduction="none").flatten()
        hard = losses[losses > self.limit]
        least = int((target != self.ignore_index).sum().item() * self.min_kept)
        if hard.numel() < least:
            hard = losses.topk(least).values
        # Nothing hard and nothing to keep (all ignored): zero, with a gradient, instead of the mean of nothing.
        return hard.mean() if hard.numel() else losses.sum() * 0.0
