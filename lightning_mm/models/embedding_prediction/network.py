"""A network that predicts the embedding of an absent modality from those that are there.

Shapes: B samples, M modalities, D_m width of the embedding of modality m, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError, check_choice, check_whole
from lightning_mm.missing import Zeros, fill_inputs
from lightning_mm.missing.fills import Nest
from lightning_mm.modalities import Modalities
from lightning_mm.models.embedding_prediction.predictors import EmbeddingPredictor
from lightning_mm.models.embedding_prediction.source import Source, listening, refuse_packing, vector_of, width_of
from lightning_mm.models.embedding_prediction.tuning import fold_tuning, tune
from lightning_mm.models.inputs import check_available, check_inputs, check_positive, parts_of_modalities
from lightning_mm.tree import batch_size, take_rows

Combine = Literal["late_mean", "late_drop", "concat"]
COMBINE = ("late_mean", "late_drop", "concat")


@dataclass(frozen=True)
class Embeddings:
    """What the encoders of a batch say.

    Args:
        vectors: Modality to its embedding ``Float[B, D_m]``, zero where absent.
        read: Modality to what prompts or queries read of its encoder ``Float[B, R_m]``, zero where absent; empty unless
            it is wanted.
        available: ``Bool[B, M]``.
    """

    vectors: dict[str, Tensor]
    read: dict[str, Tensor]
    available: Tensor


class EmbeddingPrediction(nn.Module):
    """Unimodal encoders with a head each; the embedding of an absent modality is predicted from those present.

    Own reconstruction of arXiv 2407.12616: the paper's body could not be read. Read: abstract and third parties' notes
    (frozen unimodal encoders, BitFit, read-only prompts that guide a feature predictor, an objective based on VICReg,
    late fusion, training data with and without missing modalities) and the released code of RPO and VICReg, which it is
    built on. Chosen by us: the two streams of the prompts, queries for encoders without tokens, the form of the
    predictors (:class:`EmbeddingPredictor`), the mean over several sources, all weights, and the three ways to combine.

    Args:
        encoders: Modality to its encoder, any module that returns vectors ``[B, D_m]`` and says D_m in
            ``out_channels`` (``num_features`` in timm, ``config.hidden_size`` in transformers); the order is the column
            order of ``available``.
        num_classes: Number of classes K.
        combine: ``late_mean``: the mean of the logits of all heads, where the head of an absent modality gets the
            predicted embedding. ``late_drop``: the mean over the heads of present ones, so nothing predicted is used.
            ``concat``: one linear head on all embeddings, real or predicted.
        prompts: Read-only prompts or queries per encoder; 0: predictors read the embedding itself.
        read: Modality to the part of its encoder that is read, see
            :class:`~lightning_mm.models.embedding_prediction.source.Source`.
        predictor_width: Width of the hidden layer of a predictor; twice the larger of input and output by default.

    Shape:
        ``{modality: [B, ...]}`` and ``Bool[B, M]`` -> logits ``[B, K]``.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> from lightning_mm.models import VectorEncoder
        >>> network = EmbeddingPrediction({"audio": VectorEncoder(3), "video": VectorEncoder(5)}, num_classes=4)
        >>> inputs = {"audio": torch.zeros(2, 3), "video": torch.zeros(2, 5)}
        >>> network(inputs, torch.tensor([[True, True], [True, False]])).shape
        torch.Size([2, 4])

    Reference:
        Kim and Kim, "Missing Modality Prediction for Unpaired Multimodal Learning via Joint Embedding of Unimodal
        Models", arXiv 2407.12616.
    """

    mask_absent = True
    """Absent features never enter, so fills of features have no effect, and say so."""

    def __init__(
        self,
        encoders: dict[str, nn.Module],
        num_classes: int,
        combine: Combine = "late_mean",
        prompts: int = 4,
        read: dict[str, str] | None = None,
        predictor_width: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes)
        check_choice("combine", combine, COMBINE)
        check_whole("prompts", prompts, 0)
        self.modalities = Modalities(encoders)
        unknown = [name for name in read or {} if name not in self.modalities]
        if unknown:
            raise LightningMMError(f"read: unknown modality {unknown[0]!r}; expected some of {list(self.modalities)}")
        self.channels = {name: getattr(encoder, "in_channels", None) for name, encoder in encoders.items()}
        self.num_classes, self.combine = num_classes, combine
        self.frozen = False
        self.tuned = False
        self.encoders = parts_of_modalities(encoders)
        refuse_packing(self.encoders)
        self.widths = {name: width_of(name, encoder) for name, encoder in encoders.items()}
        self.zeros = Zeros()
        several = len(encoders) > 1  # with one modality there is nothing to predict
        self.sources = parts_of_modalities(
            {
                name: Source(name, encoder, self.widths[name], prompts if several else 0, (read or {}).get(name))
                for name, encoder in encoders.items()
            }
        )
        self.predictors = parts_of_modalities(
            {
                source: parts_of_modalities(
                    {
                        target: EmbeddingPredictor(self._source(source).out_channels, width, predictor_width)
                        for target, width in self.widths.items()
                        if target != source
                    }
                )
                for source in encoders
            }
        )
        self.heads = parts_of_modalities({name: nn.Linear(width, num_classes) for name, width in self.widths.items()})
        self.joint_head = nn.Linear(sum(self.widths.values()), num_classes) if combine == "concat" else None

    def freeze(self, peft: str = "none", rank: int = 4) -> list[nn.Parameter]:
        """Freeze the encoders, in eval mode for good, but for a few parameters; see :func:`tuning.tune`.

        Returns:
            The parameters of the encoders that are still trained.
        """
        tuned = tune(self.encoders, peft, rank)
        self.frozen, self.tuned = True, bool(tuned)
        self.encoders.eval()
        return tuned

    def fold(self) -> None:
        """Put what ``peft`` learned into the weights of the encoders; its parameters are gone then."""
        fold_tuning(self.encoders)
        self.tuned = False

    def train(self, mode: bool = True) -> EmbeddingPrediction:
        """Set the mode; frozen encoders stay in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoders.eval()
        return self

    def forward(
        self, inputs: Mapping[str, Nest], available: Tensor | None = None
    ) -> Float[Tensor, "batch {self.num_classes}"]:
        """Logits; ``available=None`` means that all modalities are there."""
        found = self.embed(inputs, available, reads=self.combine != "late_drop")
        return self.logits(found)

    def embed(self, inputs: Mapping[str, Nest], available: Tensor | None = None, reads: bool = True) -> Embeddings:
        """Run the encoders.

        An encoder that is trained gets the samples that have its modality and no others.

        Args:
            inputs: ``{modality: [B, ...]}``, anything in absent places.
            available: ``Bool[B, M]``.
            reads: Whether prompts or queries are needed.
        """
        check_inputs(inputs, self.modalities)
        check_available(available, self.modalities)
        if available is None:
            size, first = batch_size(dict(inputs)) or 0, next(self.parameters())
            available = torch.ones(size, len(self.modalities), dtype=torch.bool, device=first.device)
        filled = fill_inputs(self.zeros, self.modalities, inputs, available)
        vectors, read = {}, {}
        for column, name in enumerate(self.modalities):
            present = available[:, column]
            rows = self._rows(present)
            with listening():
                vector = self._vector(name, filled[name], rows, present)
                vectors[name] = _placed(vector, rows, present)
                if reads:
                    source = self._source(name)
                    found = source(vector) if vector.shape[0] else vector.new_zeros(0, source.out_channels)
                    read[name] = _placed(found, rows, present)
        return Embeddings(vectors, read, available)

    def predict(self, read: Float[Tensor, "batch source"], source: str, target: str) -> Float[Tensor, "batch target"]:
        """Predict the embedding of one modality from what was read of another one."""
        return cast(Tensor, cast(nn.ModuleDict, self.predictors[source])[target](read))

    def completed(self, found: Embeddings) -> dict[str, Tensor]:
        """All embeddings, ``{modality: [B, D_m]}``: where one is absent, the mean of what present ones predict.

        No predictor runs for a modality that all samples have.
        """
        whole = dict(found.vectors)
        traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
        for column, target in enumerate(self.modalities):
            present = found.available[:, column]
            if len(self.modalities) == 1 or not (traced or not bool(present.all())):
                continue
            total, count = torch.zeros_like(found.vectors[target]), torch.zeros_like(found.vectors[target][:, :1])
            for other, source in enumerate(self.modalities):
                if other != column:
                    there = found.available[:, other].unsqueeze(1)
                    total = total + torch.where(there, self.predict(found.read[source], source, target), 0.0)
                    count = count + there.to(count.dtype)
            predicted = total / count.clamp(min=1)
            whole[target] = torch.where(present.unsqueeze(1), found.vectors[target], predicted)
        return whole

    def logits(self, found: Embeddings) -> Float[Tensor, "batch {self.num_classes}"]:
        """Combine the embeddings of a batch, see ``combine``."""
        if self.combine == "late_drop":
            total = torch.zeros((), device=found.available.device)
            for column, logits in enumerate(self.unimodal(found).values()):
                total = total + torch.where(found.available[:, column].unsqueeze(1), logits, 0.0)
            return total / found.available.sum(1, keepdim=True).clamp(min=1)
        whole = self.completed(found)
        if self.joint_head is not None:
            return cast(Tensor, self.joint_head(torch.cat(list(whole.values()), 1)))
        return torch.stack([self.heads[name](whole[name]) for name in self.modalities]).mean(0)

    def unimodal(self, found: Embeddings) -> dict[str, Tensor]:
        """Logits of every modality's own head, ``{modality: [B, K]}``; rows without the modality say nothing."""
        return {name: self.heads[name](found.vectors[name]) for name in self.modalities}

    def _source(self, name: str) -> Source:
        return cast(Source, self.sources[name])

    def _rows(self, present: Bool[Tensor, " batch"]) -> Tensor | None:
        """Positions of the samples that an encoder gets; None for all."""
        if self.frozen or not self.training or bool(present.all()):
            return None
        return present.nonzero()[:, 0]

    def _vector(self, name: str, value: Nest, rows: Tensor | None, present: Bool[Tensor, " batch"]) -> Tensor:
        """``[b, D_m]`` for the samples at ``rows``; what it says of absent samples has no meaning."""
        encoder, width = self.encoders[name], self.widths[name]
        if rows is not None and not rows.shape[0]:
            # no sample has it: gradients of zero, as under DDP every parameter takes part in every step
            return torch.stack([p.float().sum() * 0.0 for p in encoder.parameters()]).sum().expand(0, width)
        if rows is not None:
            value = take_rows(value, rows, len(present))
        # in eval mode an adapter on the encoders may need gradients
        with torch.no_grad() if self.frozen and not self.tuned and self.training else nullcontext():
            try:
                vector = vector_of(encoder, value)
            except LightningMMError as error:
                raise LightningMMError(f"modality {name!r}: {error}") from error
        if not isinstance(vector, Tensor) or vector.ndim != 2 or vector.shape[1] != width:
            came = tuple(vector.shape) if isinstance(vector, Tensor) else f"a {type(vector).__name__}"
            raise LightningMMError(
                f"modality {name!r}: expected vectors [batch, {width}] from its {type(encoder).__name__}, got {came}"
            )
        if rows is None and vector.shape[0] != present.shape[0]:
            raise LightningMMError(
                f"available has {present.shape[0]} rows, and modality {name!r} {vector.shape[0]} samples"
            )
        return vector


def _placed(
    part: Float[Tensor, "row channel"], rows: Tensor | None, present: Bool[Tensor, " batch"]
) -> Float[Tensor, "batch channel"]:
    """Rows in their places, zeros where absent."""
    if rows is None:
        return torch.where(present.unsqueeze(1), part, 0.0)
    return part.new_zeros(present.shape[0], part.shape[1]).index_copy(0, rows, part)
