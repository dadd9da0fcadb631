"""The layer that brings a text or the features of a clip to the space of an expert.

Shapes: B samples, C features of the input, D features of the embedding.
"""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError
from lightning_mm.models.inputs import check_positive, check_probability


class GatedEmbedding(nn.Module):
    """A linear layer, a gate that depends on all of its features, and division by the length of the vector.

    Args:
        in_channels: Features C of the input.
        out_channels: Features D of the embedding.
        batch_norm: Whether the gate is normalised over the batch; training then needs batches of two or more.
        dropout: Probability of dropping a feature of the input, in training, below 1.

    Shape:
        ``[B, C] -> [B, D]``, of length 1.

    Raises:
        LightningMMError: If a setting is out of range; in training, if a batch for BatchNorm has a single sample.

    Reference:
        Miech, Laptev, Sivic: Learning a Text-Video Embedding from Incomplete and Heterogeneous Data, arXiv 1804.02516,
        section 3.1.
    """

    def __init__(self, in_channels: int, out_channels: int, batch_norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels)
        check_probability(dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_channels, out_channels)
        self.gate = nn.Linear(out_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels) if batch_norm else None

    def forward(self, features: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch embedding"]:
        hidden = cast(Tensor, self.linear(self.dropout(features)))
        gate = cast(Tensor, self.gate(hidden))
        if self.norm is not None:
            if self.norm.training and len(gate) == 1:
                raise LightningMMError(
                    "BatchNorm cannot train on a batch of one sample; set data.drop_last to true, another batch_size, "
                    "or batch_norm of the network to false"
                )
            gate = cast(Tensor, self.norm(gate))
        return F.normalize(hidden * gate.sigmoid(), dim=1)
