"""A classifier with one encoder per modality; their vectors are fused late.

Shapes: B samples, M modalities, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.missing import Zeros, fill_inputs
from lightning_mm.missing.fills import Nest
from lightning_mm.modalities import Modalities
from lightning_mm.models.fusion import Fusion, FusionName, build_fusion
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
from lightning_mm.models.vector_encoders import vector_block


class LateFusionClassifier(nn.Module):
    """An encoder per modality, a fusion of their vectors, a hidden layer and a linear head.

    Args:
        encoders: Modality to its encoder, any module from ``[B, ...]`` (or a nest of such) to ``[B, D]`` that says its
            D in ``out_channels``; the order is the column order of ``available``.
        num_classes: Number of classes K; 1 for a regression or one logit.
        fusion: ``mean``, ``max``, ``concat``, ``attention``, or a subclass of :class:`~lightning_mm.models.Fusion`.
        hidden: Width of the layer after the fusion.
        dropout: Probability of dropping a feature of it, in training, below 1.
        mask_absent: True: absent inputs and features never enter; logits and gradients are the same bits
            whatever is there, and the encoder of a modality that is absent everywhere gets zero gradient. False: the
            network ignores ``available``, as one that was trained with all modalities, and sees the fill of absent
            ones (the setting of arXiv 2310.03986).

    Shape:
        ``{modality: [B, ...]}`` and ``Bool[B, M]`` -> logits ``[B, K]``.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> import torch
        >>> from lightning_mm.models import ImageEncoder, VectorEncoder
        >>> network = LateFusionClassifier({"image": ImageEncoder(1), "text": VectorEncoder(9)}, num_classes=4)
        >>> inputs = {"image": torch.zeros(2, 1, 28, 28), "text": torch.zeros(2, 9)}
        >>> network(inputs, torch.tensor([[True, True], [True, False]])).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        encoders: dict[str, nn.Module],
        num_classes: int,
        fusion: FusionName | type[Fusion] = "concat",
        hidden: int = 64,
        dropout: float = 0.0,
        mask_absent: bool = True,
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes, hidden=hidden)
        check_probability(dropout=dropout)
        self.modalities = Modalities(encoders)
        self.channels = {name: getattr(encoder, "in_channels", None) for name, encoder in encoders.items()}
        self.num_classes, self.mask_absent = num_classes, mask_absent
        self.widths = vector_widths(encoders)
        self.encoders = parts_of_modalities(encoders)
        self.zeros = Zeros()
        self.fusion = build_fusion(fusion, list(self.widths.values()), spatial=False)
        self.trunk = vector_block(self.fusion.out_channels, hidden, dropout)
        self.head = nn.Linear(hidden, num_classes)

    def forward(
        self, inputs: Mapping[str, Nest], available: Tensor | None = None
    ) -> Float[Tensor, "batch {self.num_classes}"]:
        """Logits; ``available=None`` means that all modalities are there."""
        check_inputs(inputs, self.modalities)
        check_available(available, self.modalities)
        present = available if self.mask_absent else None
        if present is not None:
            # The fusion masks the features; this keeps a NaN out of the encoders' gradients and batch statistics too.
            inputs = fill_inputs(self.zeros, self.modalities, inputs, present)
        features = [
            encode_vectors(name, encoder, inputs[name], self.widths[name]) for name, encoder in self.encoders.items()
        ]
        check_available(available, self.modalities, common_batch(dict(zip(self.modalities, features))))
        logits: Tensor = self.head(self.trunk(self.fusion(features, present)))
        return logits
