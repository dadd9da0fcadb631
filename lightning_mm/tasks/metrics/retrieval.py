"""Retrieval between texts and clips: similarity over the experts that are present, and ranks.

An expert is a modality of the clip with an embedding of its own, such as appearance, sound or speech.

Shapes: Q captions, V clips, M experts, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_mm.errors import LightningMMError

LEFT_OUT = -1
"""Owner of a caption that does not count."""
DEPTHS = (1, 5, 10, 50)
"""``r<k>`` is the share of queries whose answer is among the first k."""


def expert_similarity(
    text: Float[Tensor, "expert caption feature"],
    video: Float[Tensor, "expert clip feature"],
    weights: Float[Tensor, "caption expert"],
    available: Bool[Tensor, "clip expert"],
) -> Float[Tensor, "caption clip"]:
    """Similarity of every caption to every clip: the weighted mean of inner products over the clip's experts.

    Args:
        text: One embedding of each caption per expert, ``[M, Q, D]``, normalised where cosines are meant.
        video: The embeddings of the clips, ``[M, V, D]``; what stands in place of an absent expert has no effect.
        weights: Weight of each expert for a caption, ``[Q, M]``, none negative.
        available: Experts that a clip has, ``Bool[V, M]``.

    Returns:
        ``[Q, V]``; 0 for a clip without any expert (or of weight 0 only).

    Reference:
        MMT, arXiv 2007.10639, section 3.3: weights are renormalised over the experts that are present.
    """
    present = available.to(weights.dtype)
    # not a product with zero, which would let NaN through
    video = torch.where(available.T.unsqueeze(2), video, torch.zeros((), dtype=video.dtype, device=video.device))
    sums = torch.einsum("mqd,mvd,qm->qv", text, video, weights)
    total = weights @ present.T
    return torch.where(total > 0, sums / torch.where(total > 0, total, 1), 0)


def retrieval_metrics(similarity: Tensor, owner: Tensor) -> dict[str, float]:
    """Recall, ranks and geometric mean in both directions.

    Text to video: each caption looks for the clip that owns it. Video to text: each clip that owns captions looks for
    them, and the best rank among its own counts. The rank of an answer is one more than the number of answers with a
    higher similarity, and answers of the same similarity share the mean of their ranks, so that a constant matrix gets
    the ranks of guessing.

    Where captions and clips belong together in groups, as a sentence that is said of several clips, ``owner`` is a
    table, and the best rank among all that belong to a query counts in both directions; those of a group take no rank
    from each other, however similar they are.

    Args:
        similarity: ``Float[Q, V]``, higher for what belongs together.
        owner: ``Int[Q]``, the clip of each caption; -1 for a caption that is left out, as query and as answer. Or
            ``Bool[Q, V]``, which clips each caption belongs to; one that belongs to none is left out.

    Returns:
        ``t2v/r1``, ``t2v/r5``, ``t2v/r10``, ``t2v/r50`` in percent, ``t2v/median_rank``, ``t2v/mean_rank`` (1 is best),
        ``t2v/geometric_mean`` of r1, r5 and r10; the same under ``v2t/``.

    Raises:
        LightningMMError: If shapes do not fit, an owner is no clip, a similarity is NaN, or no caption counts.
    """
    for name, given in {"similarity": similarity, "owner": owner}.items():
        if not isinstance(given, Tensor):
            raise LightningMMError(
                f"retrieval: expected {name} as a tensor, got a {type(given).__name__}; write torch.as_tensor({name})"
            )
    if similarity.ndim != 2 or not similarity.is_floating_point():
        raise LightningMMError(
            f"retrieval: expected a similarity Float[Q, V], got {similarity.dtype} {tuple(similarity.shape)}"
        )
    captions, clips = similarity.shape
    if owner.dtype == torch.bool and owner.ndim == 2:
        return _of_groups(similarity.detach(), owner)
    if owner.shape != (captions,) or owner.is_floating_point() or owner.dtype == torch.bool:
        raise LightningMMError(
            f"retrieval: expected owner Int[{captions}], the clip of each caption (rows of the similarity), or "
            f"Bool[{captions}, {clips}], got {owner.dtype} {tuple(owner.shape)}"
        )
    kept = owner != LEFT_OUT
    if not kept.any():
        raise LightningMMError(f"retrieval: no caption counts: all of {captions} have the owner {LEFT_OUT}")
    wrong = kept & ((owner < 0) | (owner >= clips))
    if wrong.any():
        place = int(wrong.nonzero()[0])
        raise LightningMMError(
            f"retrieval: the owner of caption {place} is {int(owner[place])}; expected a clip from 0 to {clips - 1}, "
            f"or {LEFT_OUT} for a caption that is left out"
        )
    similarity, owner = similarity.detach()[kept], owner[kept].long()
    _check_numbers(similarity)
    own = similarity.gather(1, owner.unsqueeze(1))
    # the best own caption of a clip is the one of the highest similarity
    best = similarity.new_full((clips,), -torch.inf).scatter_reduce(0, owner, own.squeeze(1), "amax")
    asked = torch.zeros(clips, dtype=torch.bool, device=owner.device).index_fill_(0, owner, True)
    ranks = {"t2v": _ranks(similarity, own), "v2t": _ranks(similarity.T[asked], best[asked].unsqueeze(1))}
    return _named(ranks)


def best_ranks(similarity: Tensor, belongs: Tensor) -> Tensor:
    """Rank of the best answer of each query, ``Float64[N]``, from ``Float[N, K]`` and ``Bool[N, K]``.

    One more than the number of answers with a higher similarity, and half of those with an equal one that do not
    belong to the query. Every query needs an answer.
    """
    best = similarity.masked_fill(~belongs, -torch.inf).amax(1, keepdim=True)
    higher, equal = (similarity > best).sum(1), ((similarity == best) & ~belongs).sum(1)
    return (1 + higher.double() + equal.double() / 2).cpu()


def _of_groups(similarity: Tensor, belongs: Tensor) -> dict[str, float]:
    """Metrics where ``Bool[Q, V]`` says what belongs together."""
    if belongs.shape != similarity.shape:
        raise LightningMMError(
            f"retrieval: expected owner Bool{list(similarity.shape)}, the shape of the similarity, got "
            f"{tuple(belongs.shape)}"
        )
    kept, asked = belongs.any(1), belongs.any(0)
    if not kept.any():
        raise LightningMMError(f"retrieval: no caption counts: none of {len(belongs)} belongs to a clip")
    similarity, belongs = similarity[kept], belongs[kept]
    _check_numbers(similarity)
    ranks = {"t2v": best_ranks(similarity, belongs), "v2t": best_ranks(similarity.T[asked], belongs.T[asked])}
    return _named(ranks)


def _check_numbers(similarity: Tensor) -> None:
    if similarity.isnan().any():
        clip = int(similarity.isnan().nonzero()[0, 1])
        raise LightningMMError(f"retrieval: the similarity of a caption to clip {clip} is NaN")


def _named(ranks: dict[str, Tensor]) -> dict[str, float]:
    return {f"{direction}/{name}": value for direction, own in ranks.items() for name, value in _figures(own).items()}


def _ranks(similarity: Tensor, answer: Tensor) -> Tensor:
    """Rank of the answer of each row, ``Float64[N]``, from ``[N, K]`` and ``[N, 1]``."""
    higher, equal = (similarity > answer).sum(1), (similarity == answer).sum(1)
    return (1 + higher.double() + (equal - 1).double() / 2).cpu()


def _figures(ranks: Tensor) -> dict[str, float]:
    shares = {f"r{k}": 100 * (ranks <= k).double().mean().item() for k in DEPTHS}
    geometric = (shares["r1"] * shares["r5"] * shares["r10"]) ** (1 / 3)
    return {
        **shares,
        "median_rank": float(np.median(ranks.numpy())),
        "mean_rank": ranks.mean().item(),
        "geometric_mean": geometric,
    }
