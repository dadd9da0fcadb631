"""Predictors from what is read of one modality to the embedding of another.

Shapes: B samples, R features of the source, D features of the embedding.
"""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.models.inputs import check_positive


class EmbeddingPredictor(nn.Module):
    """A linear map plus a perceptron of one hidden layer: ``Linear(x) + Linear(GELU(Linear(LayerNorm(x))))``.

    Chosen by us for arXiv 2407.12616, whose predictor is not known to us. The linear map keeps what the norm takes
    away, so that ridge regression is a special case.

    Args:
        source: Features R of the source.
        target: Features D of the embedding.
        hidden: Width of the hidden layer; twice the larger of R and D if not given.

    Shape:
        ``[B, R]`` -> ``[B, D]``.

    Example:
        >>> import torch
        >>> EmbeddingPredictor(3, 5)(torch.zeros(2, 3)).shape
        torch.Size([2, 5])
    """

    def __init__(self, source: int, target: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 2 * max(source, target) if hidden is None else hidden
        check_positive(source=source, target=target, hidden=hidden)
        self.source, self.target = source, target
        self.linear = nn.Linear(source, target)
        self.norm, self.expand, self.contract = (
            nn.LayerNorm(source),
            nn.Linear(source, hidden),
            nn.Linear(hidden, target),
        )
        self.activation = nn.GELU()

    def forward(self, features: Float[Tensor, "batch {self.source}"]) -> Float[Tensor, "batch {self.target}"]:
        curved = self.contract(self.activation(self.expand(self.norm(features))))
        return cast(Tensor, self.linear(features) + curved)
