"""Settings of the distillation of an adapter from its base, their old names, and the schedule of the weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, get_args

from lightning_mm.errors import LightningMMError, check_choice

Schedule = Literal["constant", "linear", "cosine", "warmup"]
WARMUP = 0.1
"""Share of a fit after which ``warmup`` has reached the whole weight."""


@dataclass(frozen=True)
class Distillation:
    """The base as the teacher of its adapter: it sees every observed modality, the adapter the available ones.

    Args:
        weight: Above zero, this times the distance between the outputs of both is added to the training loss.
        temperature: Divides the logits of both, see :func:`~lightning_mm.tasks.teacher.teacher.distillation_loss`.
        layers: Names of layers of the network, or patterns (``encoders.*.norm``), to compare the features of, see
            :func:`~lightning_mm.tasks.teacher.features.feature_distance`.
        feature_weight: Above zero, this times the distance between those features is added.
        schedule: How both weights change over the steps of a fit: ``constant``, falling to zero (``linear``,
            ``cosine``), or rising over the first tenth (``warmup``).
        cache_mb: Megabytes of memory for teacher outputs. They are cached per sample if the data module has no
            ``augment``, and save the teacher's forward in all epochs after the first. Equal up to rounding, since a
            sample may be rounded differently in another batch; with 0 the teacher runs in every step, and a resumed
            fit equals the uninterrupted one to the bit.

    Raises:
        LightningMMError: If a setting is out of range.
    """

    weight: float = 0.0
    temperature: float = 2.0
    layers: list[str] | None = None
    feature_weight: float = 0.0
    schedule: Schedule = "constant"
    cache_mb: float = 512.0

    def __post_init__(self) -> None:
        for name in ("weight", "feature_weight", "cache_mb"):
            if not getattr(self, name) >= 0:
                raise LightningMMError(f"distillation.{name}: expected 0 or more, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise LightningMMError(f"distillation.temperature: expected more than 0, got {self.temperature}")
        check_choice("distillation.schedule", self.schedule, get_args(Schedule))
        if isinstance(self.layers, str) or (self.feature_weight > 0 and not self.layers):
            raise LightningMMError(
                "distillation.layers: expected a list of names or patterns such as ['head'], which feature_weight "
                f"needs, got {self.layers!r}"
            )


class OldNames(TypedDict, total=False):
    """What the settings of :class:`Distillation` were called as settings of a task; read for one more release."""

    teacher_weight: float
    teacher_temperature: float
    teacher_layers: list[str] | None
    teacher_feature_weight: float
    teacher_schedule: Schedule
    teacher_cache_mb: float


def with_old_names(distillation: Distillation, old: Mapping[str, Any]) -> Distillation:
    """Take in settings that were given by their old names, with a warning that says the new ones.

    An old config holds all of them: one that is at its default leaves the new setting alone.

    Args:
        distillation: The settings that were given by their new names.
        old: Old name to value, of those that were given.

    Raises:
        TypeError: If a name is none of the old ones.
        LightningMMError: If a setting was given by both names with two values.
    """
    if not old:
        return distillation
    default, changes, names = Distillation(), {}, []
    for name, value in old.items():
        if name not in OldNames.__annotations__:
            raise TypeError(f"a task has no argument {name!r}")
        new = name.removeprefix("teacher_")
        names.append(f"model.init_args.distillation.{new} was {name}")
        now, unset = getattr(distillation, new), getattr(default, new)
        if now == unset:
            changes[new] = value
        elif value not in (now, unset):
            raise LightningMMError(f"distillation.{new} is {now!r} and {name}, its old name, {value!r}; give only one")
    warnings.warn(
        f"settings of the teacher have new names, the old ones work until the next release: {', '.join(names)}; in "
        "Python distillation=Distillation(...)",
        FutureWarning,
        stacklevel=2,
    )
    return replace(distillation, **changes)


def teacher_factor(schedule: Schedule, progress: float) -> float:
    """What the weights of a distillation are multiplied by at some point of a fit.

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
