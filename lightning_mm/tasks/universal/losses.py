"""What a student learns from a teacher that sees the completed sample.

Shapes: B samples, K classes, D features; ``*size`` is height and width of images, or depth, height and width of
volumes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from lightning_mm.tasks.losses import at_least_float

_FLOOR = 0.005
"""Least probability in the divergence, as in the code of PASSION."""
_SMALL = 1e-5


def temperature_divergence(
    student: Float[Tensor, "batch klass *size"], teacher: Float[Tensor, "batch klass *size"], temperature: float = 4.0
) -> Float[Tensor, ""]:
    """Divergence of class probabilities at a temperature T, times T ** 2: the mean over classes, positions and samples.

    Args:
        student: Logits.
        teacher: Logits; no gradient reaches them.
        temperature: T.

    Reference:
        ``temp_kl`` of PASSION (ACM MM 2024); own code, checked with values of the official one.
    """
    learned = (at_least_float(student) / temperature).softmax(1).clamp(_FLOOR, 1.0)
    given = (at_least_float(teacher.detach()) / temperature).softmax(1).clamp(_FLOOR, 1.0)
    return temperature**2 * (given * (given.log() - learned.log())).mean()


def prototype_distance(
    student: Float[Tensor, "batch feature *size"],
    teacher: Float[Tensor, "batch feature *size"],
    target: Int64[Tensor, "batch ..."],
    num_classes: int,
) -> Float[Tensor, ""]:
    """Squared difference between student and teacher in how similar each position is to the mean of each class.

    Means are those of the true masks of one sample. Classes that a sample does not have are left out of its mean over
    classes and positions; a sample without labels counts as zero.

    Args:
        student: Features of the decoder.
        teacher: Those for the completed sample; no gradient reaches them.
        target: Labels; others than 0 to K - 1 belong to no class.
        num_classes: K.

    Reference:
        The prototype loss of PASSION (ACM MM 2024); own code, checked with values of the official one.
    """
    classes = torch.arange(num_classes, device=target.device).view(1, -1, 1)
    truth = (target.flatten(1).unsqueeze(1) == classes).to(at_least_float(student).dtype)
    there = truth.sum(2) > 0
    maps = [_similarity(at_least_float(one).flatten(2), truth) for one in (student, teacher.detach())]
    of_classes = (maps[0] - maps[1]).square().mean(2)
    return (torch.where(there, of_classes, 0.0).sum(1) / there.sum(1).clamp(min=1)).mean()


def _similarity(
    features: Float[Tensor, "batch feature place"], truth: Float[Tensor, "batch klass place"]
) -> Float[Tensor, "batch klass place"]:
    """Cosine of every position and the mean feature of every class."""
    means = torch.einsum("bdp,bkp->bkd", features, truth) / (truth.sum(2, keepdim=True) + _SMALL)
    return torch.einsum("bkd,bdp->bkp", F.normalize(means, dim=2, eps=_SMALL), F.normalize(features, dim=1, eps=_SMALL))
