"""The frozen base as the teacher of its own adapter: what it says of complete data, for the incomplete ones.

Shapes: B samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.teacher.cache import Lesson, LessonCache
from lightning_mm.tasks.teacher.features import (
    Features,
    FeatureTap,
    choose_layers,
    feature_distance,
    features_of,
    tapped,
)

Schedule = Literal["constant", "linear", "cosine", "warmup"]
WARMUP = 0.1
"""Share of a fit after which ``warmup`` has reached the whole weight."""


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


def teacher_factor(schedule: Schedule, progress: float) -> float:
    """What the weights of the teacher are multiplied by at some point of a fit.

    Args:
        schedule: ``constant`` is one; ``linear`` and ``cosine`` fall from one to zero; ``warmup`` rises from zero to
            one over the first tenth and stays there.
        progress: Share of the fit that is done, 0 to 1.

    Example:
        >>> [teacher_factor(schedule, 0.5) for schedule in ("constant", "linear", "cosine", "warmup")]
        [1.0, 0.5, 0.5, 1.0]
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return min(progress / WARMUP, 1.0) if schedule == "warmup" else 1.0


def fit_progress(trainer: Trainer) -> float:
    """Share of the optimizer's steps that a fit has taken; a resumed fit goes on where it was.

    Raises:
        LightningMMError: If the fit has no end.
    """
    total = trainer.estimated_stepping_batches
    if not 0 < total < math.inf:
        raise LightningMMError(
            "a teacher_schedule needs a fit whose length is known: set trainer.max_epochs or trainer.max_steps, or "
            "teacher_schedule to constant"
        )
    return trainer.global_step / total


class Teacher:
    """The base beside its adapter in training: asks it once per batch at most, and compares outputs and features.

    Args:
        network: The task's network.
        weight: Of the distance between the outputs.
        layers: Names or patterns of the layers whose features are compared.
        feature_weight: Of the distance between the features.
        schedule: See :func:`teacher_factor`; it holds for both weights.
        cache_mb: See :class:`~lightning_mm.tasks.teacher.cache.LessonCache`.

    Raises:
        LightningMMError: If a setting is out of range, or no layer is called so.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float,
        layers: Sequence[str] | None,
        feature_weight: float,
        schedule: Schedule,
        cache_mb: float,
    ) -> None:
        if schedule not in get_args(Schedule):
            raise LightningMMError(f"teacher_schedule must be one of {list(get_args(Schedule))}, got {schedule!r}")
        if not (feature_weight >= 0 and cache_mb >= 0):
            raise LightningMMError(
                f"expected teacher_feature_weight >= 0 and teacher_cache_mb >= 0, got {feature_weight} and {cache_mb}"
            )
        if isinstance(layers, str) or (feature_weight > 0 and not layers):
            raise LightningMMError(
                f"teacher_feature_weight needs teacher_layers, a list of names or patterns such as ['head'], got "
                f"{layers!r}"
            )
        self.weight, self.feature_weight, self.schedule, self.cache_mb = weight, feature_weight, schedule, cache_mb
        self.layers = choose_layers(_original(network), layers or []) if feature_weight > 0 else []
        self.cache: LessonCache | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy of a task begins without what this one has kept.
        return {**self.__dict__, "cache": None}

    @property
    def wanted(self) -> bool:
        return self.weight > 0 or self.feature_weight > 0

    def open_cache(self, task: LightningModule) -> None:
        """Begin a fit: answers are kept from here on, if they cannot change."""
        self.cache = None
        if not self.wanted:
            return
        reason = self._against_cache(task)
        if reason is not None:
            rank_zero_info(f"teacher: one more forward in every step, as {reason}")
            return
        self.cache = LessonCache(self.cache_mb, task.trainer.num_training_batches * task.trainer.world_size)

    def close_cache(self) -> None:
        """End a fit, and free what was kept."""
        self.cache = None

    def listening(self, network: nn.Module) -> AbstractContextManager[Mapping[str, FeatureTap]]:
        """Keep the features of the chosen layers in forwards inside this context."""
        return tapped(_original(network), self.layers)

    def lesson(self, task: LightningModule, batch: Mapping[str, Any]) -> Lesson:
        """What the base says of all that was observed: one forward without gradient, or none."""
        if self.cache is None:
            return self._ask(task, batch)
        return self.cache.lesson(batch, lambda: self._ask(task, batch))

    def distances(
        self,
        lesson: Lesson,
        outputs: Any,
        taps: Mapping[str, FeatureTap],
        distillation: Callable[[Any, Any], Tensor],
    ) -> dict[str, tuple[float, Tensor]]:
        """The weight of each distance from the teacher, and the distance.

        Args:
            lesson: Of the teacher.
            outputs: Of the student.
            taps: Those that have listened to the student.
            distillation: The task's distance of outputs from the teacher's.
        """
        found: dict[str, tuple[float, Tensor]] = {}
        if self.weight > 0:
            found["teacher_loss"] = self.weight, distillation(outputs, lesson.outputs)
        if self.feature_weight > 0:
            features: Features = features_of(taps)
            found["teacher_feature_loss"] = self.feature_weight, feature_distance(features, lesson.features)
        return found

    def factor(self, task: LightningModule) -> float:
        """What both weights are multiplied by now."""
        return 1.0 if self.schedule == "constant" else teacher_factor(self.schedule, fit_progress(task.trainer))

    def _ask(self, task: LightningModule, batch: Mapping[str, Any]) -> Lesson:
        network: Any = task.model
        with self.listening(network) as taps:
            outputs = teacher_outputs(task, batch)
        return Lesson(outputs, features_of(taps))

    def _against_cache(self, task: LightningModule) -> str | None:
        trainer, fill = task.trainer, getattr(getattr(task, "adapter", None), "fill", None)
        datamodule: Any = getattr(trainer, "datamodule", None)
        if self.cache_mb == 0:
            return "teacher_cache_mb is 0"
        if not hasattr(datamodule, "augment"):
            return "only a data module with `augment` tells whether the data are augmented"
        if datamodule.augment is not None:
            return "the training data are augmented"
        if hasattr(datamodule, "redraws") and datamodule.redraws():
            return "the training data are drawn anew in every epoch"
        if isinstance(fill, nn.Module) and any(parameter.requires_grad for parameter in fill.parameters()):
            return "the fill is trained, which the teacher sees where a modality was not observed"
        if trainer.max_epochs == trainer.current_epoch + 1:
            return "no epoch follows in which its answers could be used"
        return None


def _original(network: nn.Module) -> nn.Module:
    """A compiled network's own."""
    original: nn.Module = getattr(network, "_orig_mod", network)
    return original
