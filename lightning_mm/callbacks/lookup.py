"""Find what the settings of a callback name: the network of a module, the modalities, the mask of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.tree import leaves_of, tensors_of


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
        raise LightningMMError(
            f"`available` at {where!r} is a {type(value).__name__}, expected a tensor Bool[B, M]; make it one in the "
            "data set or its collate_fn, or give a function of the batch"
        )
    return value


class BatchMask:
    """Watches the calls of one step that get the mask of the batch, as they may be on samples of other masks.

    Args:
        batch: The batch.
        where: Where its mask is, see :func:`available_of`.
    """

    def __init__(self, batch: Any, where: str | Callable[[Any], Tensor]) -> None:
        self.batch, self.where = batch, where
        self.before: set[bool] = set()

    def __call__(self, network: nn.Module, inputs: Sequence[Any], enabled: bool) -> None:
        """Look at one call.

        Args:
            network: The network.
            inputs: The input of each modality.
            enabled: Whether the adapter is on; a call with it and one without are made to be compared.

        Raises:
            LightningMMError: If the inputs are those of a part of the batch next to the one that the mask belongs to.
        """
        name, place = type(network).__name__, "the mask of the batch" if callable(self.where) else repr(self.where)
        advice = "call it inside `with self.adapter.using(mask)` for each set of samples (None: all modalities present)"
        other = self._other_part(inputs)
        if other is not None:
            raise LightningMMError(
                f"{name} is called on the inputs of {other!r} in the batch with the `available` of another part, "
                f"{place}; {advice}"
            )
        if enabled in self.before:
            warnings.warn(
                f"{name} is called more than once in a step, each time with the same `available`, {place}; if this is "
                f"not the mask of the samples of all these calls, {advice}",
                stacklevel=2,
            )
        self.before.add(enabled)

    def _other_part(self, inputs: Sequence[Any]) -> str | None:
        """The part of the batch that inputs belong to, if it is another one of the same form as that of the mask."""
        own = () if callable(self.where) else tuple(self.where.split(".")[:-1])
        if not own:
            return None
        places = {tuple(map(str, path)): leaf for path, leaf in leaves_of(self.batch) if isinstance(leaf, Tensor)}
        path_of = {id(leaf): path for path, leaf in places.items()}
        for tensor in tensors_of(list(inputs)):
            path = path_of.get(id(tensor), ())
            part, inside = path[: len(own)], path[len(own) :]
            if inside and part != own and (*own, *inside) in places:
                return ".".join(part)
        return None
