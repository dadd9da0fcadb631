"""Retrieval of clips by texts and of texts by clips, where clips may miss modalities.

Shapes: B clips of a batch, K captions of a clip, M experts (modalities of the clip), D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_mm.errors import LightningMMError, check_choice
from lightning_mm.missing.fills import Nest
from lightning_mm.models.text_clip.network import EmbeddingExperts
from lightning_mm.tasks.base import STEP_KEYS, BaseTask, Stage
from lightning_mm.tasks.checks import check_batch
from lightning_mm.tasks.losses import at_least_float
from lightning_mm.tasks.metrics.retrieval import LEFT_OUT
from lightning_mm.tasks.retrieval.gather import gathered
from lightning_mm.tasks.retrieval.losses import info_nce_loss, max_margin_loss
from lightning_mm.tasks.retrieval.ranking import (
    METRICS,
    RANKS,
    RetrievalFigures,
    belonging,
    pairs_of,
    predictions_of,
    retrieval_figures,
    similarities,
)
from lightning_mm.tree import map_tensors, rows_of, take_rows, tensors_of

Objective = Literal["info_nce", "max_margin"]


class RetrievalTask(BaseTask):
    """Trains and evaluates a network that embeds clips and texts per expert, see :class:`EmbeddingExperts`.

    The clips are the inputs of a batch, and may miss modalities; the text is its target, which never does. Similarity
    is the mean of the inner products over the experts that a clip has, weighted by the text. A caption may belong to
    several clips: captions with the same number are the same text, so that a data set with a sentence per class is
    ranked by class, and one with a caption per clip by clip. In a batch, other clips with the same caption, and other
    captions of the clip, are no negatives of a pair.

    Metrics, of the whole split: ``t2v_r1``, ``t2v_r5``, ``t2v_r10``, ``t2v_r50`` (share of the distinct captions for
    which one of their clips is among the first 1, 5, 10, 50), ``t2v_median_rank``, ``t2v_mean_rank``,
    ``t2v_geometric_mean`` of the shares of depth 1, 5 and 10; the same under ``v2t_``, where each clip looks for the
    best of its captions among the distinct ones.

    In a distributed run a training batch is that of all processes together: embeddings are gathered, with gradients,
    so that it equals one process with the global batch, except for statistics of BatchNorm. ``val/loss`` is that of
    batches of one process, and depends on their size; metrics do not.

    Args:
        model: The network; ``{modality: [B, ...]} -> [B, M, D]``, with a method ``encode_text`` and, for ``info_nce``,
            ``scale``, as :class:`EmbeddingExperts` has them.
        modalities: Names of the columns of ``available``, in order.
        objective: ``info_nce``, the symmetric cross entropy over a batch, or ``max_margin``.
        margin: Of ``max_margin``.
        keep_absent: Whether experts that a clip lacks keep their weight, and their embedding is that of the fill. It
            is the baseline without any handling of missing modalities, and what the released configuration of MMT
            does (``keep_missing_modalities``); a network must then not mask them.
        primary: The metric for tables and model selection.
        **base: See :class:`BaseTask`; auxiliary heads and a teacher belong to other tasks.

    Shape:
        Target ``{"caption": Int64[B], "text": nest of [B, ...]}``, the number of a clip's caption and what the text
        encoder takes; or ``[B, K]`` and ``[B, K, ...]`` for K captions a clip, with the number -1 for none. Outputs
        ``{"clips": Float[B, M, D], "present": Bool[B, M]}``.

    Raises:
        LightningMMError: If settings do not agree, or outputs or target are of another form.

    Reference:
        MMT, arXiv 2007.10639 (similarity, max-margin loss, metrics). Chosen by us: the cross entropy with a trained
        temperature, and which captions and clips are no negatives of a pair.
    """

    summable_statistics = False

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        objective: Objective = "info_nce",
        margin: float = 0.05,
        keep_absent: bool = False,
        primary: str = "t2v_r1",
        **base: Any,
    ) -> None:
        check_choice("objective", objective, ("info_nce", "max_margin"))
        check_choice("primary", primary, METRICS)
        if not margin >= 0:
            raise LightningMMError(f"margin: expected 0 or more, got {margin}")
        if not callable(getattr(model, "encode_text", None)):
            raise LightningMMError(
                f"RetrievalTask: expected a network with a method encode_text, such as EmbeddingExperts, got a "
                f"{type(model).__name__}"
            )
        if keep_absent and getattr(model, "mask_absent", False):
            raise LightningMMError(
                "keep_absent: the network masks absent experts, so that nothing is kept; set its mask_absent to false"
            )
        self.primary_metric = primary
        super().__init__(model, modalities, **base)
        if self.teacher.wanted:
            raise LightningMMError("RetrievalTask has no teacher; set the weights of distillation to 0")
        self.objective, self.margin, self.keep_absent = objective, margin, keep_absent
        self.save_settings(objective=objective, margin=margin, keep_absent=keep_absent, primary=primary)
        self.metric_directions = {name: "min" if name.partition("_")[2] in RANKS else "max" for name in METRICS}
        if objective == "max_margin" and isinstance(model, EmbeddingExperts):
            model.log_scale.requires_grad_(False)  # that of a softmax

    def forward(self, inputs: Mapping[str, Nest], available: Tensor | None = None) -> dict[str, Tensor]:
        """Embeddings of clips, ``clips`` ``[B, M, D]``, zero where an expert does not count, and which do, ``present``.

        Args:
            inputs: ``{modality: [B, ...]}``, a placeholder in absent places.
            available: ``Bool[B, M]``; ``None`` means all modalities.
        """
        clips = super().forward(inputs, available)
        if not isinstance(clips, Tensor) or clips.ndim != 3 or clips.shape[1] != len(self.modalities):
            came = tuple(clips.shape) if isinstance(clips, Tensor) else f"a {type(clips).__name__}"
            raise LightningMMError(
                f"network: expected embeddings [B, {len(self.modalities)}, D], one for each of "
                f"{list(self.modalities)}, got {came}"
            )
        if available is None or self.keep_absent:
            available = torch.ones(clips.shape[:2], dtype=torch.bool, device=clips.device)
        return {"clips": torch.where(available.unsqueeze(2), clips, 0.0), "present": available}

    def sample_statistics(self, outputs: Any, target: Any) -> dict[str, Tensor]:
        """The rows that metrics are made of: embeddings of clips and captions, see ``ranking``."""
        self.check_target(target)
        number = target["caption"].unsqueeze(1) if target["caption"].ndim == 1 else target["caption"]
        if len(outputs["clips"]) != len(number):
            raise LightningMMError(
                f"network: expected one row for each of {len(number)} clips, got {len(outputs['clips'])}"
            )
        texts, weights = self._encode(target["text"], number, split=target["caption"].ndim == 2)
        return {
            "clips": at_least_float(outputs["clips"]),
            "present": outputs["present"],
            "texts": texts,
            "weights": weights,
            "caption": number,
        }

    def _encode(self, text: Nest, number: Tensor, split: bool) -> tuple[Tensor, Tensor]:
        """Embeddings and weights of captions, ``[B, K, M, D]`` and ``[B, K, M]``; zero for those that are left out."""
        flat = map_tensors(text, lambda leaf: leaf.flatten(0, 1)) if split else text
        counts = (number.flatten() != LEFT_OUT).nonzero()[:, 0]
        whole = len(counts) == number.numel()
        network = cast(EmbeddingExperts, self.model)
        found = network.encode_text(flat if whole else take_rows(flat, counts, number.numel()))
        places = (
            at_least_float(one) if whole else one.new_zeros(number.numel(), *one.shape[1:]).index_copy(0, counts, one)
            for one in found
        )
        texts, weights = (one.unflatten(0, number.shape) for one in places)
        return texts, weights

    def loss(self, outputs: Any, target: Any) -> Tensor:
        return self._loss_of(self.sample_statistics(outputs, target))

    def _loss_of(self, rows: dict[str, Tensor]) -> Tensor:
        caption, clip, place = pairs_of(rows)
        if not len(caption):
            return 0 * (rows["clips"].sum() + rows["texts"].sum() + rows["weights"].sum())
        found = similarities(rows["texts"][clip, place], rows["weights"][clip, place], rows)
        belongs = belonging(caption, rows)
        if self.objective == "max_margin":
            return max_margin_loss(found, clip, belongs, self.margin)
        return info_nce_loss(found * cast(EmbeddingExperts, self.model).scale(), clip, belongs)

    def predictions(self, outputs: Any) -> Tensor:
        """The embeddings of the clips ``[B, M, D]``, for an index that texts are compared with."""
        return cast(Tensor, outputs["clips"])

    def configure_metrics(self) -> MetricCollection:
        return MetricCollection({"retrieval": RetrievalFigures()}, compute_groups=False)

    def check_target(self, target: Any) -> None:
        expected = '{"caption": Int64[B] or Int64[B, K], "text": what the text encoder takes, B or B x K rows}'
        number = target.get("caption") if isinstance(target, Mapping) else None
        if not isinstance(number, Tensor) or "text" not in target:
            came = f"a dict of {list(target)}" if isinstance(target, Mapping) else f"a {type(target).__name__}"
            raise LightningMMError(f"target: expected {expected}, got {came}")
        if number.dtype != torch.int64 or number.ndim not in (1, 2) or not number.numel():
            raise LightningMMError(f"target: expected {expected}, got a caption {number.dtype} {tuple(number.shape)}")
        if number.min() < LEFT_OUT:
            raise LightningMMError(
                f"target: captions have numbers from 0, or {LEFT_OUT} for none, got {int(number.min())}"
            )
        texts = target["text"]
        sizes: list[tuple[int | None, ...]] = [tuple(leaf.shape[: number.ndim]) for leaf in tensors_of(texts)]
        sizes = sizes or [(rows_of(texts),)]
        wrong = [size for size in sizes if size != tuple(number.shape)]
        if wrong:
            raise LightningMMError(
                f"target: expected texts {list(number.shape)}, one for each caption, got {list(wrong[0])}"
            )

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        """Metrics of any set of clips; a caption counts once, however many of the clips have it."""
        return retrieval_figures(statistics)

    def samples_from(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a sweep writes of each clip instead of its embeddings."""
        return predictions_of(statistics)

    def _shared_step(self, batch: dict[str, Any], stage: Stage) -> tuple[Any, Tensor]:
        check_batch(batch, STEP_KEYS)
        outputs = self(batch["inputs"], batch["available"])
        rows = self.sample_statistics(outputs, batch["target"])
        loss = self._loss_of(gathered(rows) if stage == "train" else rows)
        self._log_loss(f"{stage}/loss", loss, batch, prog_bar=True)
        if stage != "train":
            unknown = torch.full((len(rows["clips"]),), -1, device=rows["clips"].device)
            index = torch.as_tensor(batch.get("index", unknown)).to(unknown)
            for metric in self._stage_metrics(stage).values():
                metric.update(rows, index)
        return outputs, loss
