"""Which parameters of a task are trained, and which of them decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_mm.errors import LightningMMError


def parameter_groups(task: nn.Module) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices decay, one-dimensional parameters and those of ``task.adapter`` do not.

    Identity is where an adapter, a norm and a bias start or belong: decay would pull them from there to zero.

    Raises:
        LightningMMError: If every parameter is frozen.
    """
    trainable = [parameter for parameter in task.parameters() if parameter.requires_grad]
    if not trainable:
        raise LightningMMError(
            "nothing to train: every parameter is frozen; add an adapter (FrozenBackboneAdapter) or unfreeze the "
            "network"
        )
    adapter = getattr(task, "adapter", None)
    adapted = {id(p) for p in adapter.parameters()} if isinstance(adapter, nn.Module) else set()
    decayed = [p for p in trainable if p.ndim > 1 and id(p) not in adapted]
    plain = [p for p in trainable if p.ndim <= 1 or id(p) in adapted]
    groups: list[dict[str, Any]] = [{"params": decayed}] if decayed else []
    return groups + ([{"params": plain, "weight_decay": 0.0}] if plain else [])
