"""Verification: whether two samples are of the same class, decided by a threshold on their similarity.

Shapes: P pairs, A and B samples, E width of embeddings.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F


def equal_error_rate(scores: Float[Tensor, " pair"], same: Bool[Tensor, " pair"]) -> float:
    """Compute the error rate at the threshold at which as many pairs are wrongly accepted as wrongly refused.

    Pairs with equal scores are accepted or refused together; between two thresholds the rates are interpolated.

    Args:
        scores: Similarities; higher means the same class.
        same: Which pairs are.

    Returns:
        0 (perfect) to 1, 0.5 for scores that say nothing; NaN if there are no pairs of either kind.

    Example:
        >>> equal_error_rate(torch.tensor([0.9, 0.8, 0.3, 0.1]), torch.tensor([True, True, False, False]))
        0.0
    """
    same = same.bool()
    if not same.any() or same.all():
        return float("nan")
    ordered = scores.double().argsort(descending=True)
    values, flags = scores[ordered], same[ordered]
    last = torch.ones_like(flags)
    last[:-1] = values[1:] != values[:-1]  # thresholds between different scores only
    accepted = F.pad((~flags).cumsum(0)[last].double() / (~flags).sum(), (1, 0))
    refused = F.pad(1 - flags.cumsum(0)[last].double() / flags.sum(), (1, 0), value=1.0)
    after = int((accepted >= refused).nonzero()[0])
    before = max(after - 1, 0)
    gap, next_gap = (float(refused[place] - accepted[place]) for place in (before, after))
    share = gap / (gap - next_gap) if gap != next_gap else 0.0
    return float(accepted[before] + share * (accepted[after] - accepted[before]))


def verification_error(
    first: Float[Tensor, "a width"],
    second: Float[Tensor, "b width"],
    first_target: Int64[Tensor, " a"],
    second_target: Int64[Tensor, " b"],
) -> float:
    """Equal error rate of the cosines of all pairs of embeddings of two modalities, A x B pairs.

    Args:
        first: Embeddings ``[A, E]`` of one modality.
        second: Embeddings ``[B, E]`` of the other.
        first_target: Their classes, ``Int64[A]``.
        second_target: Likewise, ``Int64[B]``.
    """
    scores = F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).mT
    same = first_target.unsqueeze(1) == second_target.unsqueeze(0)
    return equal_error_rate(scores.flatten(), same.flatten())
