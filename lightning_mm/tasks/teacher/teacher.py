"""The frozen base as the teacher of its adapter: its outputs for complete data are targets for incomplete data.

Shapes: B samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError
from lightning_mm.tasks.teacher.cache import TeacherCache, TeacherOutputs
from lightning_mm.tasks.teacher.distillation import Distillation, teacher_factor
from lightning_mm.tasks.teacher.features import FeatureTap, choose_layers, feature_distance, features_of, tapped
from lightning_mm.tasks.training.repeated import changes_of_data


def distillation_loss(outputs: Tensor, teacher: Tensor, temperature: float = 2.0) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence between the softened class probabilities of teacher and student.

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


def fit_progress(trainer: Trainer) -> float:
    """Share of the optimizer's steps that a fit has taken, those before a resume included.

    Raises:
        LightningMMError: If the fit has no end.
    """
    total = trainer.estimated_stepping_batches
    if not 0 < total < math.inf:
        raise LightningMMError(
            "distillation.schedule needs a fit of known length: set trainer.max_epochs or trainer.max_steps, or "
            "distillation.schedule to constant"
        )
    return trainer.global_step / total


@dataclass
class Comparison:
    """Teacher outputs for a batch, and the taps on the student's forward, to be compared.

    Args:
        settings: The weights.
        known: Outputs and features of the teacher.
        taps: Taps that listen to the student.
    """

    settings: Distillation
    known: TeacherOutputs
    taps: Mapping[str, FeatureTap]

    def distances(self, outputs: Any, distance: Callable[[Any, Any], Tensor]) -> dict[str, tuple[float, Tensor]]:
        """The weight and the value of each distance from the teacher.

        Args:
            outputs: Outputs of the student.
            distance: The task's distance of outputs from the teacher's.
        """
        found: dict[str, tuple[float, Tensor]] = {}
        if self.settings.weight > 0:
            found["teacher_loss"] = self.settings.weight, distance(outputs, self.known.outputs)
        if self.settings.feature_weight > 0:
            distances = feature_distance(features_of(self.taps), self.known.features)
            found["teacher_feature_loss"] = self.settings.feature_weight, distances
        return found


class Teacher:
    """Runs the base without its adapter at most once per training batch, for the student to be compared with it.

    Args:
        network: The task's network.
        settings: What is compared, and how much it counts.

    Raises:
        LightningMMError: If a name or pattern of ``settings.layers`` fits no layer.
    """

    def __init__(self, network: nn.Module, settings: Distillation) -> None:
        self.settings = settings
        self.layers = choose_layers(_original(network), settings.layers or []) if settings.feature_weight > 0 else []
        self.cache: TeacherCache | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy of a task begins with an empty cache.
        return {**self.__dict__, "cache": None}

    @property
    def wanted(self) -> bool:
        return self.settings.weight > 0 or self.settings.feature_weight > 0

    def open_cache(self, task: LightningModule) -> None:
        """Begin a fit: teacher outputs are cached from here on, if they cannot change."""
        self.cache = None
        if not self.wanted:
            return
        reason = self._against_cache(task)
        if reason is not None:
            rank_zero_info(f"teacher: one more forward in every step, because {reason}")
            return
        self.cache = TeacherCache(self.settings.cache_mb, task.trainer.num_training_batches * task.trainer.world_size)

    def close_cache(self) -> None:
        """End a fit, and free the cache."""
        self.cache = None

    @contextmanager
    def watching(self, task: LightningModule, batch: Mapping[str, Any]) -> Iterator[Comparison | None]:
        """Get the teacher outputs for a batch, and listen to the student's forward inside this context.

        Yields:
            What to compare the student with; ``None`` if no distillation is wanted.

        Raises:
            LightningMMError: At the end, if the task has no adapter.
        """
        if not self.wanted:
            yield None
            return
        adapter = getattr(task, "adapter", None)
        if adapter is None:
            yield None  # before there is an adapter, FrozenBackboneAdapter looks at how a step calls the network
            raise LightningMMError(
                "distillation needs an adapter: the base is the teacher; add a FrozenBackboneAdapter to the callbacks, "
                "or set distillation.weight and distillation.feature_weight to 0"
            )
        with ExitStack() as stack:
            if self.settings.feature_weight > 0:
                stack.enter_context(adapter.every_row())  # features are compared sample by sample
            # Before the student: in the backward pass the adapter must still be where the student left it.
            compute = partial(self._compute, task, batch)
            known = compute() if self.cache is None else self.cache.get(batch, compute)
            taps = stack.enter_context(tapped(_original(task.model), self.layers))  # type: ignore[arg-type]
            yield Comparison(self.settings, known, taps)

    def factor(self, task: LightningModule) -> float:
        """What both weights are multiplied by now."""
        schedule = self.settings.schedule
        return 1.0 if schedule == "constant" else teacher_factor(schedule, fit_progress(task.trainer))

    def _compute(self, task: LightningModule, batch: Mapping[str, Any]) -> TeacherOutputs:
        """Run the base on all observed modalities, its adapter off, without gradient."""
        network: Any = task.model
        adapter: Any = task.adapter
        with tapped(_original(network), self.layers) as taps, torch.no_grad(), adapter.disabled():
            outputs = task(batch["inputs"], batch["observed"])
        # Under autocast, weights that were cast without gradient would be used again by the student.
        torch.clear_autocast_cache()
        return TeacherOutputs(outputs, features_of(taps))

    def _against_cache(self, task: LightningModule) -> str | None:
        """Why teacher outputs cannot be cached in this fit; ``None`` if they can."""
        trainer, fill = task.trainer, getattr(getattr(task, "adapter", None), "fill", None)
        datamodule: Any = getattr(trainer, "datamodule", None)
        if self.settings.cache_mb == 0:
            return "distillation.cache_mb is 0"
        if not hasattr(datamodule, "augment"):
            return "only a data module with `augment` tells whether the data are augmented"
        changes = changes_of_data(datamodule)
        if changes is not None:
            return changes
        if isinstance(fill, nn.Module) and any(parameter.requires_grad for parameter in fill.parameters()):
            return "the fill is trained, and the teacher sees it in place of modalities that were not observed"
        if trainer.max_epochs == trainer.current_epoch + 1:
            return "no epoch follows that could use its outputs"
        return None


def _original(network: nn.Module) -> nn.Module:
    """The network inside a compiled one."""
    original: nn.Module = getattr(network, "_orig_mod", network)
    return original
