"""Visual question answering: soft targets of several annotators, the loss, and the score.

Shapes: B samples, C answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)
"""Value of an answer that 0, 1, 2, 3, or 4 and more of ten annotators gave."""


def soft_target(given: Sequence[str], answers: Sequence[str]) -> Float[Tensor, " answer"]:
    """The target of one question, from what its annotators answered.

    Args:
        given: One answer per annotator; those that are not in ``answers`` count for none.
        answers: The C answers that the network knows.

    Returns:
        ``Float[C]`` between 0 and 1: 0.3 for an answer that one annotator gave, 0.6, 0.9, and 1 for four or more.

    Reference:
        VQA v2, Goyal et al., CVPR 2017, in the form of ViLT (arXiv 2102.03334).

    Example:
        >>> soft_target(["red", "red", "blue"], ["blue", "green", "red"])
        tensor([0.3000, 0.0000, 0.6000])
    """
    votes = Counter(given)
    return torch.tensor([SCORES[min(votes[answer], len(SCORES) - 1)] for answer in answers])


def vqa_loss(logits: Float[Tensor, "batch answer"], target: Float[Tensor, "batch answer"]) -> Float[Tensor, ""]:
    """Binary cross entropy of every answer, summed over answers and averaged over samples, as ViLT's."""
    return F.binary_cross_entropy_with_logits(logits, target) * target.shape[1]


def vqa_scores(logits: Float[Tensor, "batch answer"], target: Float[Tensor, "batch answer"]) -> Float[Tensor, " batch"]:
    """The target's value of the answer with the highest logit, ``Float[B]``."""
    return target.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)


class VqaScore(Metric):
    """The mean of :func:`vqa_scores` over samples; NaN before the first."""

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        self.total += vqa_scores(logits, target).double().sum()
        self.count += len(target)

    def compute(self) -> Tensor:
        return (self.total / self.count).float()
