"""Checks that a task agrees with its network, and a call with the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities


def check_modalities(model: nn.Module, modalities: Modalities) -> None:
    """Raise a LightningMMError if a network with ``channels`` lists other modalities, or in another order."""
    channels = getattr(model, "channels", None)
    if isinstance(channels, Mapping) and tuple(channels) != modalities.names:
        raise LightningMMError(
            f"task and network disagree on the modalities: the task lists {list(modalities)}, the network's channels "
            f"{list(channels)}; write the same names in the same order"
        )


def checked_class_names(model: nn.Module, num_classes: int, class_names: Sequence[str] | None) -> list[str]:
    """The names of the classes; by default their numbers.

    Raises:
        LightningMMError: If they are not as many distinct names as there are classes, or a network with
            ``num_classes`` has another number.
    """
    names = [str(label) for label in range(num_classes)] if class_names is None else list(class_names)
    if num_classes < 2 or len(names) != num_classes or len(set(names)) != num_classes:
        raise LightningMMError(
            f"num_classes is {num_classes}: expected at least 2, and as many distinct class_names, got {names}"
        )
    made_for = getattr(model, "num_classes", num_classes)
    if made_for != num_classes:
        raise LightningMMError(
            f"task and network disagree on the classes: the task has num_classes {num_classes}, the network "
            f"{made_for}; write the same number"
        )
    return names


def check_call(inputs: Mapping[str, object], available: Tensor | None, modalities: Modalities) -> None:
    """Raise a LightningMMError if inputs lack a modality, or ``available`` is not ``Bool[B, M]``."""
    absent = [name for name in modalities if name not in inputs]
    if absent:
        raise LightningMMError(f"inputs lack {absent}; expected {list(modalities)}, got {list(inputs)}")
    if available is None:
        return
    if available.ndim != 2 or available.shape[1] != len(modalities) or available.dtype != torch.bool:
        raise LightningMMError(
            f"available: expected Bool[B, {len(modalities)}], one column for each of {list(modalities)}, got "
            f"{available.dtype} {tuple(available.shape)}"
        )
