"""Find what the settings of a callback name: the network of a module, the modalities, the mask of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError


def network_of(module: LightningModule, name: str) -> nn.Module:
    """Return the network of a module.

    Args:
        module: Any LightningModule.
        name: Its attribute, dotted if nested.

    Raises:
        LightningMMError: If the attribute does not exist or is not an ``nn.Module``.
    """
    try:
        network = attrgetter(name)(module)
    except AttributeError:
        children = [child for child, _ in module.named_children()]
        raise LightningMMError(
            f"{type(module).__name__} has no attribute {name!r}; set `network` to the attribute that holds the "
            f"network, one of {children}"
        ) from None
    if not isinstance(network, nn.Module):
        raise LightningMMError(
            f"{name!r} of {type(module).__name__} is a {type(network).__name__}; `network` must name an nn.Module"
        )
    return network


def modalities_of(given: Sequence[str] | None, module: LightningModule, datamodule: Any) -> list[str]:
    """Return the given modalities, or else the modalities of the module, or else those of the data module.

    Raises:
        LightningMMError: If all are missing.
    """
    for names in (given, getattr(module, "modalities", None), getattr(datamodule, "modalities", None)):
        if names:
            return list(names)
    raise LightningMMError(
        f"FrozenBackboneAdapter does not know the modalities: neither {type(module).__name__} nor the data module has "
        "`modalities`; pass modalities=[...]"
    )


def available_of(batch: Any, where: str | Callable[[Any], Tensor]) -> Tensor:
    """Return the mask ``Bool[B, M]`` of a batch.

    Args:
        batch: Any batch.
        where: A dotted path of keys, attributes or positions, or a function of the batch.

    Raises:
        LightningMMError: If there is nothing at the path, or no tensor.
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
                f"no `available` at {where!r} in the batch ({part!r} not found in {has}); set `available` "
                "of FrozenBackboneAdapter to a path such as 'mask' or '2', or to a function of the batch"
            ) from None
    if not isinstance(value, Tensor):
        raise LightningMMError(f"`available` at {where!r} is a {type(value).__name__}, expected a tensor Bool[B, M]")
    return value
