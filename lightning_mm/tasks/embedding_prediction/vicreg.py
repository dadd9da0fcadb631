"""VICReg: two embeddings of a sample agree, features keep their spread, and are not correlated.

Shapes: N pairs, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_mm.errors import LightningMMError

EPSILON = 1e-4
"""Added to variances below the square root."""


@dataclass(frozen=True)
class VICReg:
    """The weights of VICReg; those of its authors by default.

    Args:
        invariance: Of the squared distance; with the other two 0 this is a mean squared error.
        variance: Of the spread: a feature should have a standard deviation of at least one over the pairs.
        covariance: Of the correlation between features.

    Raises:
        LightningMMError: If a weight is negative.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise LightningMMError(f"vicreg: {name}: expected 0 or more, got {value}")

    def __call__(self, a: Float[Tensor, "pair feature"], b: Float[Tensor, "pair feature"]) -> Float[Tensor, ""]:
        """The loss in the form of the released code; zero, with gradients of zero, for fewer than two pairs.

        ``invariance * mean + variance * (var(a) + var(b)) / 2 + covariance * (cov(a) + cov(b))``. The paper's formula
        sums the distance over features and has no half at the variance; its published weights belong to this form.

        Reference:
            Bardes et al., "VICReg", arXiv 2105.04906.
        """
        if len(a) < 2:
            return (a.sum() + b.sum()) * 0.0
        loss = self.invariance * (a - b).square().mean()
        for one in (a, b):
            loss = loss + self.variance * 0.5 * variance_term(one) + self.covariance * covariance_term(one)
        return loss


def variance_term(features: Float[Tensor, "pair feature"]) -> Float[Tensor, ""]:
    """Mean over features of how far the standard deviation is below one."""
    return torch.relu(1.0 - (features.var(0) + EPSILON).sqrt()).mean()


def covariance_term(features: Float[Tensor, "pair feature"]) -> Float[Tensor, ""]:
    """Sum of the squared covariances of different features, divided by their number."""
    centred = features - features.mean(0)
    covariance = centred.T @ centred / (len(features) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / features.shape[1]
