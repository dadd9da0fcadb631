"""Finds in a module or a batch what a callback's settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError


def network_of(module: LightningModule, name: str) -> nn.Module:
    """The network of a module.

    Args:
        module: Any LightningModule.
        name: The attribute (dotted where nested) that holds the network.

    Raises:
        LightningMMError: If there is no such attribute, or it is no ``nn.Module``.
    """
    try:
        network = attrgetter(name)(module)
    except AttributeError:
        children = [child for child, _ in module.named_children()]
        raise LightningMMError(
            f"{type(module).__name__} has no attribute {name!r}; `network` must name the one that holds the network, "
            f"out of {children}"
        ) from None
    if not isinstance(network, nn.Module):
        raise LightningMMError(
            f"{name!r} of {type(module).__name__} is a {type(network).__name__}; `network` must name an nn.Module"
        )
    return network


def modalities_of(given: Sequence[str] | None, module: LightningModule, datamodule: Any) -> list[str]:
    """The modalities that are given, else those of the module, else those of the data module.

    Raises:
        LightningMMError: If there are none.
    """
    for names in (given, getattr(module, "modalities", None), getattr(datamodule, "modalities", None)):
        if names:
            return list(names)
    raise LightningMMError(
        f"FrozenBackboneAdapter does not know the modalities: neither {type(module).__name__} nor the data module has "
        "`modalities`; give modalities=[...]"
    )


def available_of(batch: Any, where: str | Callable[[Any], Tensor]) -> Tensor:
    """The availability ``Bool[B, M]`` of a batch.

    Args:
        batch: Any batch.
        where: A dotted path of keys, attributes or positions, or a function of the batch.

    Raises:
        LightningMMError: If the path leads nowhere, or to no tensor.
    """
    if callable(where):
        return where(batch)
    value: Mapping[str, Any] | Any = batch
    for part in where.split("."):
        try:
            if isinstance(value, Mapping):
                value = value[part]
            elif part.lstrip("-").isdigit():
                value = value[int(part)]
            else:
                value = getattr(value, part)
        except (KeyError, IndexError, AttributeError):
            has = list(value) if isinstance(value, Mapping) else type(value).__name__
            raise LightningMMError(
                f"no `available` at {where!r} in the batch ({part!r} not found in {has}); give FrozenBackboneAdapter "
                "`available`: a path such as 'mask' or '2', or a function of the batch"
            ) from None
    if not isinstance(value, Tensor):
        raise LightningMMError(f"`available` at {where!r} is a {type(value).__name__}, expected a tensor Bool[B, M]")
    return value
