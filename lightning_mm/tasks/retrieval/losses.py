"""Losses on the similarities of a batch of captions and clips.

A pair is a caption and the clip that it was written for. Other clips to which the caption belongs too, and other
captions of the clip, are no negatives of a pair: they are left out of its sums.

Shapes: Q captions, V clips.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F


def max_margin_loss(
    similarity: Float[Tensor, "caption clip"],
    owner: Int64[Tensor, " caption"],
    belongs: Bool[Tensor, "caption clip"],
    margin: float = 0.05,
) -> Float[Tensor, ""]:
    """Mean over pairs and their negatives, in both directions, of how far a negative comes within the margin.

    Args:
        similarity: Of every caption to every clip.
        owner: The clip of each caption.
        belongs: Which captions belong to which clips.
        margin: By how much a pair should be more similar than its negatives.

    Returns:
        A scalar; zero if no pair has a negative.

    Reference:
        MMT, arXiv 2007.10639, in the form of its code, without the diagonal (``fix_norm``); where every caption
        belongs to one clip alone, and each clip has one, it is that loss.
    """
    pairs = similarity.gather(1, owner.unsqueeze(1))
    sums, counts = similarity.new_zeros(()), similarity.new_zeros(())
    for answers, negative in _directions(similarity, owner, belongs):
        sums = sums + torch.where(negative, (margin + answers - pairs).relu(), 0.0).sum()
        counts = counts + negative.sum()
    return sums / counts.clamp(min=1)


def info_nce_loss(
    logits: Float[Tensor, "caption clip"],
    owner: Int64[Tensor, " caption"],
    belongs: Bool[Tensor, "caption clip"],
) -> Float[Tensor, ""]:
    """Mean over pairs and both directions of the cross entropy of the pair against its negatives.

    Args:
        logits: Similarities times a scale.
        owner: The clip of each caption.
        belongs: Which captions belong to which clips.

    Reference:
        The symmetric loss of CLIP, arXiv 2103.00020; where every caption belongs to one clip alone, and each clip has
        one, it is that loss.
    """
    pairs = logits.gather(1, owner.unsqueeze(1))
    means = []
    for answers, negative in _directions(logits, owner, belongs):
        # the lowest finite number: zero next to any logit, and no NaN where a pair has no negative
        others = answers.masked_fill(~negative, torch.finfo(answers.dtype).min)
        means.append(-F.log_softmax(torch.cat([pairs, others], dim=1), dim=1)[:, 0].mean())
    return torch.stack(means).mean()


def _directions(
    similarity: Tensor, owner: Tensor, belongs: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """For each direction the similarities of every pair's query to all answers, and which of them are negatives."""
    to_text = similarity[:, owner].T, ~belongs[:, owner].T
    return (similarity, ~belongs), to_text
