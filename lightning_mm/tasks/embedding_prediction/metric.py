"""How well embeddings are predicted.

Shapes: N samples that have both modalities, D features of the embedding.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


class PredictedEmbedding(Metric):
    """Explained variance and spread of a predicted embedding, from sums over samples.

    ``explained_variance`` is one minus the squared error over the squared distance from the mean embedding of these
    samples, both summed over features: 1 is perfect, 0 as good as the mean, below 0 worse. ``predicted_std`` is the
    root of the mean variance of predicted features over that of real ones: near 0 the prediction has collapsed.

    Args:
        features: Number of features D.

    Shape:
        Updates take predicted and real embeddings ``[n, D]``; :meth:`compute` returns ``Float[2]``.
    """

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        # error, real, real squared, predicted, predicted squared
        self.add_state("sums", torch.zeros(5, features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Float[Tensor, "n feature"], real: Float[Tensor, "n feature"]) -> None:
        """Add some samples."""
        predicted, real = predicted.detach().double(), real.detach().double()
        parts = ((predicted - real).square(), real, real.square(), predicted, predicted.square())
        self.sums += torch.stack([part.sum(0) for part in parts])
        self.count += len(real)

    def compute(self) -> Float[Tensor, " figure"]:
        """Explained variance, and spread over that of the real embedding; NaN if that does not vary."""
        error, real, real_squared, predicted, predicted_squared = self.sums
        n = self.count.clamp(min=1)
        total = (real_squared - real.square() / n).clamp(min=0).sum()
        spread = (predicted_squared - predicted.square() / n).clamp(min=0).sum()
        varies = total > 1e-12 * real_squared.sum().clamp(min=1e-12)
        nothing = torch.full_like(total, torch.nan)
        return torch.stack(
            [
                torch.where(varies, 1 - error.sum() / total, nothing),
                torch.where(varies, (spread / total).sqrt(), nothing),
            ]
        ).float()
