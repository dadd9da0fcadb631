"""The orthogonal projection loss: rows of one class point the same way, those of different classes are orthogonal.

Shapes: N rows, E width.
"""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from lightning_mm.tasks.losses import at_least_float

NEGATIVE_WEIGHT = 0.7
"""Weight of the cosines of different classes in the code of SBNet."""
_SMALL = 1e-6


def orthogonal_projection_loss(
    features: Float[Tensor, "row width"], target: Int64[Tensor, " row"], negative_weight: float = NEGATIVE_WEIGHT
) -> Float[Tensor, ""]:
    """Compute ``(1 - mean cosine within a class) + negative_weight * mean |cosine| between classes``.

    The means are over the pairs of rows of one batch and process; without a pair of one class the first term is one.

    Args:
        features: Any length; only directions count.
        target: Class of each row.
        negative_weight: Weight of the second term.

    Example:
        >>> import torch
        >>> round(float(orthogonal_projection_loss(torch.eye(2)[[0, 0, 1]], torch.tensor([5, 5, 7]))), 4)
        0.0

    Reference:
        Ranasinghe et al., Orthogonal Projection Loss, ICCV 2021, in the form of the code of SBNet (arXiv 2303.06129):
        absolute cosines, weight 0.7, and 1e-6 in the denominators.
    """
    directions = F.normalize(at_least_float(features), dim=1)
    cosines = directions @ directions.mT
    same = target.unsqueeze(0) == target.unsqueeze(1)
    pairs = same.clone().fill_diagonal_(False)
    within = (cosines * pairs).sum() / (pairs.sum() + _SMALL)
    between = (cosines * ~same).abs().sum() / ((~same).sum() + _SMALL)
    return 1 - within + negative_weight * between
