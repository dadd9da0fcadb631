"""A classifier with one branch for all modalities: a modality of a sample is a row of the batch.

Shapes: B samples, M modalities, N rows (pairs of a sample and one of its modalities that are present), D width of the
aligned features, E width of the embeddings, K classes; ``available`` is ``Bool[B, M]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError, check_choice
from lightning_mm.missing import Zeros, fill_inputs
from lightning_mm.missing.fills import Nest
from lightning_mm.modalities import Modalities
from lightning_mm.models.inputs import (
    check_available,
    check_inputs,
    check_positive,
    check_probability,
    common_batch,
    encode_vectors,
    parts_of_modalities,
    vector_widths,
)
from lightning_mm.models.single_branch.trunk import NORMS, Norm, TrunkBlock, xavier
from lightning_mm.tree import batch_size, take_rows

Fuse = Literal["logits", "embeddings"]


@dataclass(frozen=True)
class Rows:
    """The rows of a batch, sorted by modality, and within a modality by sample.

    Args:
        embeddings: ``[N, E]``, of length one.
        logits: ``[N, K]``.
        sample: The sample of each row, ``Int[N]``.
        modality: The column of its modality, ``Int[N]``.
    """

    embeddings: Float[Tensor, "row width"]
    logits: Float[Tensor, "row class"]
    sample: Int[Tensor, " row"]
    modality: Int[Tensor, " row"]


class SingleBranchClassifier(nn.Module):
    """Extractors, one trunk that all modalities share, and a linear head; outputs are averaged over present modalities.

    In training, rows of absent modalities do not exist: their inputs are never read, and neither loss nor batch
    statistics depend on them. In eval mode, where rows do not influence each other, the network runs on the filled
    inputs of all samples and leaves absent rows out of the mean, so that adapters, folding and export work.

    Args:
        encoders: Modality to its extractor, any module from ``[B, ...]`` to ``[B, D_m]`` that says its D_m in
            ``out_channels``; :class:`~lightning_mm.models.VectorInput` for features that are vectors already.
        num_classes: Number of classes K.
        width: D; the largest D_m by default. An extractor of another width gets a linear alignment layer.
        embedding: E, the width of both blocks of the trunk.
        dropout: Probability of dropping a feature after each block, in training, below 1.
        norm: Of the trunk: ``batch`` (over all rows of a batch, whatever their modality), ``batch_per_modality`` or
            ``layer``. Batch statistics are those of one process.
        fuse: Whether the ``logits`` of the rows of a sample are averaged, or their ``embeddings``, which are brought to
            length one again.
        freeze_encoders: Whether the extractors stay as they are: no gradient, and always in eval mode.

    Shape:
        ``{modality: [B, ...]}`` and ``Bool[B, M]`` -> logits ``[B, K]``; zeros for a sample without any modality.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> from lightning_mm.models import VectorInput
        >>> network = SingleBranchClassifier({"voice": VectorInput(9), "face": VectorInput(5)}, num_classes=4)
        >>> inputs = {"voice": torch.zeros(2, 9), "face": torch.zeros(2, 5)}
        >>> network.eval()(inputs, torch.tensor([[True, True], [True, False]])).shape
        torch.Size([2, 4])

    Reference:
        Own reconstruction of arXiv 2408.07445 (SRMM) and arXiv 2303.06129 (SBNet), whose bodies could not be read.
        Read: abstracts, a table of 2408.07445, and facts of the code of SBNet: two blocks of Linear, BatchNorm, ReLU
        and dropout 0.5 of width 128, length one, a linear classifier, Xavier weights. Chosen by us: alignment layers
        only where widths differ, the norms per modality and ``layer``, both fusions.
    """

    def __init__(
        self,
        encoders: dict[str, nn.Module],
        num_classes: int,
        width: int | None = None,
        embedding: int = 128,
        dropout: float = 0.5,
        norm: Norm = "batch",
        fuse: Fuse = "logits",
        freeze_encoders: bool = False,
    ) -> None:
        super().__init__()
        self.widths = vector_widths(encoders)
        width = max(self.widths.values(), default=1) if width is None else width
        check_positive(num_classes=num_classes, width=width, embedding=embedding)
        check_probability(dropout=dropout)
        check_choice("norm", norm, NORMS)
        check_choice("fuse", fuse, ("logits", "embeddings"))
        self.modalities = Modalities(encoders)
        self.channels = {name: getattr(encoder, "in_channels", None) for name, encoder in encoders.items()}
        self.num_classes, self.fuse_by = num_classes, fuse
        self.encoders = parts_of_modalities(encoders)
        others = {name: one for name, one in self.widths.items() if one != width}
        self.align = parts_of_modalities({name: xavier(nn.Linear(one, width)) for name, one in others.items()})
        sizes = (width, embedding, embedding)
        blocks = (TrunkBlock(*pair, list(self.modalities), norm, dropout) for pair in pairwise(sizes))
        self.trunk = nn.ModuleList(blocks)
        self.head = xavier(nn.Linear(embedding, num_classes))
        self.zeros = Zeros()
        self.freeze_encoders = freeze_encoders
        self.encoders.requires_grad_(not freeze_encoders)
        self.train(self.training)

    def train(self, mode: bool = True) -> SingleBranchClassifier:
        super().train(mode)
        if self.freeze_encoders:
            self.encoders.eval()
        return self

    def forward(
        self, inputs: Mapping[str, Nest], available: Tensor | None = None
    ) -> Float[Tensor, "batch {self.num_classes}"]:
        """Logits; ``available=None`` means that all modalities are there."""
        if self.training:
            return self.fuse(self.rows(inputs, available), self._size(inputs))
        check_inputs(inputs, self.modalities)
        check_available(available, self.modalities)
        if available is not None:
            inputs = fill_inputs(self.zeros, self.modalities, inputs, available)
        parts = {name: self._features(name, inputs[name]) for name in self.modalities}
        size = common_batch(parts)
        check_available(available, self.modalities, size)
        embeddings = self.embed(torch.cat([*parts.values()]), [size] * len(parts))
        outputs = embeddings if self.fuse_by == "embeddings" else self.head(embeddings)
        each = outputs.unflatten(0, (len(parts), size))  # [M, B, ...]
        present = torch.ones_like(each[:, :, :1], dtype=torch.bool) if available is None else available.mT.unsqueeze(2)
        # torch.where and not a product: 0 * NaN is NaN.
        total = reduce(torch.add, torch.where(present, each, 0.0).unbind())
        return self._finish(total, present.sum(0))

    def rows(self, inputs: Mapping[str, Nest], available: Tensor | None = None, fresh: bool = False) -> Rows:
        """Run on the rows of modalities that are present, and on nothing else.

        Args:
            inputs: ``{modality: [B, ...]}``; what is absent is not read.
            available: ``Bool[B, M]``; ``None`` means all.
            fresh: Whether BatchNorms use the statistics of these rows in eval mode too, see :class:`TrunkBlock`.
        """
        check_inputs(inputs, self.modalities)
        size = self._size(inputs)
        check_available(available, self.modalities, size)
        device = self.head.weight.device
        if available is None:
            available = torch.ones(size, len(self.modalities), dtype=torch.bool, device=device)
        samples = [column.nonzero().squeeze(1) for column in available.unbind(1)]
        parts = [self._features_of(name, inputs[name], rows, size) for name, rows in zip(self.modalities, samples)]
        sizes = [len(rows) for rows in samples]
        embeddings = self.embed(torch.cat(parts), sizes, fresh)
        columns = torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device))
        return Rows(embeddings, self.head(embeddings), torch.cat(samples), columns)

    def fuse(self, rows: Rows, size: int) -> Float[Tensor, "batch {self.num_classes}"]:
        """Average the rows of each of ``size`` samples; zeros for a sample without rows."""
        outputs = rows.embeddings if self.fuse_by == "embeddings" else rows.logits
        # by sorting and adding in the order of the rows: index_add_ on a GPU adds in random order
        total = outputs.new_zeros(size, outputs.shape[1])
        count = torch.zeros(size, 1, dtype=torch.int64, device=outputs.device)
        for column in range(len(self.modalities)):
            mine = rows.modality == column
            total = total.index_copy(0, rows.sample[mine], total[rows.sample[mine]] + outputs[mine])
            count[rows.sample[mine]] += 1
        return self._finish(total, count)

    def embed(self, features: Float[Tensor, "row width"], sizes: list[int], fresh: bool = False) -> Tensor:
        """Embeddings ``[N, E]`` of length one from aligned features ``[N, D]``, sorted by modality."""
        for block in self.trunk:
            features = block(features, sizes, fresh)
        return F.normalize(features, dim=1)

    def _finish(self, total: Tensor, count: Tensor) -> Tensor:
        mean = total / count.clamp(min=1)
        if self.fuse_by == "logits":
            return mean
        logits: Tensor = self.head(F.normalize(mean, dim=1))
        return torch.where(count > 0, logits, 0.0)

    def _features(self, name: str, value: Nest) -> Float[Tensor, "row width"]:
        """Aligned features of one modality."""
        features = encode_vectors(name, self.encoders[name], value, self.widths[name])
        if name not in self.align:
            return features
        aligned: Tensor = self.align[name](features)
        return aligned

    def _size(self, inputs: Mapping[str, Nest]) -> int:
        """Number of samples that all modalities have."""
        sizes = {name: batch_size(inputs[name]) or 0 for name in self.modalities if name in inputs}
        if len(set(sizes.values())) > 1:
            raise LightningMMError(f"inputs have different numbers of samples: {sizes}")
        return next(iter(sizes.values()), 0)

    def _features_of(self, name: str, value: Nest, rows: Int[Tensor, " row"], size: int) -> Float[Tensor, "row width"]:
        """Aligned features of some samples; without any, an encoder does not run but its parameters take part."""
        if len(rows):
            return self._features(name, take_rows(value, rows, size))
        used = [*self.encoders[name].parameters(), *(self.align[name].parameters() if name in self.align else ())]
        first: nn.Linear = self.trunk[0].linear  # type: ignore[assignment]
        nothing = first.weight.new_zeros(0, first.in_features)
        trained = [parameter.flatten()[:0].sum() for parameter in used if parameter.requires_grad]
        return nothing + torch.stack(trained).sum() if trained else nothing
