"""The frozen base as the teacher of its own adapter: what it says of complete data, for the incomplete ones.

Shapes: B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError


def distillation_loss(outputs: Tensor, teacher: Tensor, temperature: float = 2.0) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of the student's classes from the teacher's, both softened.

    The divergence is summed over classes, averaged over all else, and multiplied by the temperature squared, which
    keeps its gradient of one size for all temperatures.

    Args:
        outputs: Logits of the student, ``[B, C, ...]``.
        teacher: Logits of the teacher, of the same shape; they get no gradient.
        temperature: Both logits are divided by it.

    Raises:
        LightningMMError: If the shapes differ.

    Example:
        >>> same = torch.tensor([[2.0, -1.0]])
        >>> distillation_loss(same, same).item()
        0.0

    Reference:
        Hinton, Vinyals, Dean, arXiv 1503.02531.
    """
    if outputs.shape != teacher.shape or outputs.ndim < 2:
        raise LightningMMError(
            f"distillation: expected logits [B, C, ...] of student and teacher, got {tuple(outputs.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    student = F.log_softmax(outputs.float() / temperature, dim=1)
    known = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    return temperature**2 * F.kl_div(student, known, reduction="none", log_target=True).sum(1).mean()


def teacher_outputs(task: nn.Module, batch: Mapping[str, Any]) -> Any:
    """Outputs of the base, its adapter off, for all that was observed; one forward without gradient.

    Args:
        task: With an ``adapter``; called with inputs and ``Bool[B, M]``.
        batch: As the data module makes it; ``observed`` and not ``available`` is what counts here.
    """
    adapter: Any = task.adapter
    with torch.no_grad(), adapter.disabled():
        outputs = task(batch["inputs"], batch["observed"])
    # Under autocast, weights that were cast without gradient would be used again by the student.
    torch.clear_autocast_cache()
    return outputs
