"""From embeddings of captions and clips to similarities, and to ranks over a whole split.

The rows of a split, or of a batch, are a dict of tensors with one row per clip: ``clips`` ``[N, M, D]``, ``present``
``Bool[N, M]``, and of its captions ``texts`` ``[N, K, M, D]``, ``weights`` ``[N, K, M]``, ``caption`` ``Int64[N, K]``.

Shapes: N clips, K captions of a clip, M experts, D features, P pairs of a caption and its clip, Q distinct captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.metrics.retrieval import (
    DEPTHS,
    LEFT_OUT,
    best_ranks,
    expert_similarity,
    retrieval_metrics,
)

Rows = Mapping[str, Tensor]
ROWS = ("clips", "present", "texts", "weights", "caption")
CHUNK = 512
"""Captions that are compared with all clips at a time."""
RANKS = ("median_rank", "mean_rank")
_NAMES = (*(f"r{depth}" for depth in DEPTHS), *RANKS, "geometric_mean")
METRICS = tuple(f"{way}_{name}" for way in ("t2v", "v2t") for name in _NAMES)


def similarities(
    texts: Float[Tensor, "caption expert feature"], weights: Float[Tensor, "caption expert"], rows: Rows
) -> Float[Tensor, "caption clip"]:
    """Similarity of captions to clips over the experts that are present, some captions at a time."""
    clips, present = rows["clips"].transpose(0, 1), rows["present"].bool()
    parts = [
        expert_similarity(some.transpose(0, 1), clips, own, present)
        for some, own in zip(texts.split(CHUNK), weights.split(CHUNK))
    ]
    return torch.cat(parts)


def pairs_of(rows: Rows) -> tuple[Int64[Tensor, " pair"], Int64[Tensor, " pair"], Int64[Tensor, " pair"]]:
    """Captions that count, in the order of the clips: their number, their clip, and their place among its captions."""
    clip, place = (rows["caption"] != LEFT_OUT).nonzero(as_tuple=True)
    return rows["caption"][clip, place], clip, place


def belonging(caption: Int64[Tensor, " caption"], rows: Rows) -> Tensor:
    """Which captions, by their numbers, belong to which clips, ``Bool[Q, N]``."""
    return (caption[:, None, None] == rows["caption"]).any(2)


def ranked(rows: Rows) -> tuple[Float[Tensor, "caption clip"], Tensor, Int64[Tensor, " caption"]]:
    """Similarity of every distinct caption to every clip, which belong together, and the captions' numbers, ascending.

    Raises:
        LightningMMError: If no caption counts.
    """
    caption, clip, place = pairs_of(rows)
    if not len(caption):
        raise LightningMMError(f"retrieval: no caption counts: all have the number {LEFT_OUT}")
    numbers, first = _first_of_each(caption)
    texts, weights = (rows[name][clip[first], place[first]] for name in ("texts", "weights"))
    return similarities(texts, weights, rows), belonging(numbers, rows), numbers


def predictions_of(rows: Rows) -> dict[str, Tensor]:
    """What is kept of every clip: the lowest number of its captions, the one that is ranked first, and its best rank.

    Returns:
        ``target`` and ``prediction``, ``Int64[N]``, and ``v2t_rank``, ``Float32[N]``; -1 and NaN for a clip without a
        caption.
    """
    similarity, belongs, numbers = ranked(rows)
    has = belongs.any(0)
    ranks = torch.full((len(has),), torch.nan)
    ranks[has.cpu()] = best_ranks(similarity.T[has], belongs.T[has]).float()
    target = torch.where(rows["caption"] != LEFT_OUT, rows["caption"], numbers.max() + 1).amin(1)
    return {
        "prediction": numbers[similarity.argmax(0)],
        "target": torch.where(has, target, LEFT_OUT),
        "v2t_rank": ranks,
    }


def retrieval_figures(rows: Rows) -> dict[str, float]:
    """Metrics of a whole split; a caption that several clips share is one query and one answer.

    Returns:
        ``t2v_r1``, ``t2v_r5``, ``t2v_r10``, ``t2v_r50`` and ``t2v_geometric_mean`` as fractions, ``t2v_median_rank``
        and ``t2v_mean_rank``; the same under ``v2t_``.
    """
    similarity, belongs, _ = ranked(rows)
    found = {name.replace("/", "_"): value for name, value in retrieval_metrics(similarity, belongs).items()}
    return {name: value if name.partition("_")[2] in RANKS else value / 100 for name, value in found.items()}


class RetrievalFigures(Metric):
    """:func:`retrieval_figures` of all clips that were seen, by all processes; a clip that was seen twice counts once.

    Args:
        settings: Of torchmetrics.
    """

    full_state_update = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in (*ROWS, "index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, rows: Rows, index: Int64[Tensor, " clip"]) -> None:
        """Add the clips of a batch; ``index`` is their position in the data set, -1 if it is not known."""
        for name in ROWS:
            getattr(self, name).append(rows[name].detach())
        self.index.append(index)  # type: ignore[operator, union-attr]

    def compute(self) -> dict[str, Tensor]:
        """The metrics; NaN before the first clip."""
        if not len(self.index):  # type: ignore[arg-type]
            return {name: torch.tensor(torch.nan) for name in METRICS}
        index = dim_zero_cat(self.index)  # type: ignore[arg-type]
        rows = {name: dim_zero_cat(getattr(self, name)) for name in ROWS}
        if not (index < 0).any():
            first = _first_of_each(index)[1]
            rows = {name: one[first] for name, one in rows.items()}
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in retrieval_figures(rows).items()}


def _first_of_each(values: Int64[Tensor, " row"]) -> tuple[Tensor, Tensor]:
    """The distinct values, ascending, and the first position of each."""
    distinct, which = torch.unique(values, return_inverse=True)
    places = torch.arange(len(values), device=values.device)
    first = torch.full_like(distinct, len(values)).scatter_reduce(0, which, places, "amin")
    return distinct, first
