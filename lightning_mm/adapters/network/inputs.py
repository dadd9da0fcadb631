"""The path to the input of each modality in a call: a parameter, or keys into a dict, list or tuple argument."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from lightning_mm.adapters.tracing import tracing
from lightning_mm.errors import LightningMMError
from lightning_mm.missing import Fill
from lightning_mm.modalities import check_mask, check_rows
from lightning_mm.tree import batch_size, map_tensors, rebuild, take_rows

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class InputPath:
    """One argument of ``forward`` (by position and name) and the keys of a value inside it."""

    position: int | None
    name: str
    keys: tuple[str | int, ...] = ()

    def get(self, call: Call) -> Any:
        """Return the value in a call; None if it was not passed."""
        args, kwargs = call
        if self.name in kwargs:
            value = kwargs[self.name]
        elif self.position is not None and self.position < len(args):
            value = args[self.position]
        else:
            return None
        for key in self.keys:
            if value is None or (isinstance(value, Mapping) and key not in value):
                return None
            value = value[key]
        return value

    def put(self, call: Call, value: Any) -> Call:
        """Return the call with another value at this path; containers are copied, not modified."""
        args, kwargs = call
        if self.name in kwargs or self.position is None or self.position >= len(args):
            return args, {**kwargs, self.name: _put(kwargs.get(self.name), self.keys, value)}
        changed = _put(args[self.position], self.keys, value)
        return (*args[: self.position], changed, *args[self.position + 1 :]), kwargs

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> InputPath:
        return cls(state["position"], state["name"], tuple(state["keys"]))


def _put(container: Any, keys: tuple[str | int, ...], value: Any) -> Any:
    if not keys:
        return value
    inner = _put(container[keys[0]], keys[1:], value)
    if isinstance(container, Mapping):
        return rebuild(container, {**container, keys[0]: inner})
    return rebuild(container, [inner if i == keys[0] else item for i, item in enumerate(container)])


def forward_of(network: nn.Module) -> inspect.Signature:
    """Return the signature of a network's ``forward``; for a compiled network, of the original."""
    return inspect.signature(getattr(network, "_orig_mod", network).forward)


def parameter_path(network: nn.Module, name: str) -> InputPath | None:
    """Return the path to the parameter of ``forward`` with this name, or None."""
    parameters = list(forward_of(network).parameters.values())
    for position, parameter in enumerate(parameters):
        if parameter.name == name and parameter.kind is not parameter.VAR_KEYWORD:
            return InputPath(None if parameter.kind is parameter.KEYWORD_ONLY else position, name)
    return None


def locate_inputs(
    network: nn.Module, modalities: Iterable[str], where: Mapping[str, str] | None, example: Call
) -> dict[str, InputPath]:
    """Find the input of every modality.

    Args:
        network: Its ``forward`` signature names the parameters.
        modalities: Modality names.
        where: Modality to a parameter name (``"image"``), a dotted path into an argument (``"batch.image"``) or a key
            of a dict argument; default: the name of the modality.
        example: A typical call, which shows the keys of dict arguments.

    Raises:
        LightningMMError: If an input is not found, or two modalities share one; the message lists the known inputs.
    """
    where = dict(where or {})
    names = list(modalities)
    unknown = sorted(set(where) - set(names))
    if unknown:
        raise LightningMMError(
            f"`inputs` names {unknown}, which are not among the modalities {names}; remove them from `inputs`"
        )
    parameters = list(forward_of(network).parameters)
    found: dict[str, InputPath] = {}
    for modality in names:
        path = _find(network, where.get(modality, modality), example)
        if path is None:
            raise LightningMMError(
                f"modality {modality!r}: no argument {where.get(modality, modality)!r} in "
                f"forward({', '.join(parameters)}) of {type(network).__name__}, nor a key of a dict argument "
                f"({_dict_keys(network, example)}); name it with "
                f"inputs={{{modality!r}: 'parameter' or 'parameter.key'}}"
            )
        if path in found.values():
            raise LightningMMError(
                f"modality {modality!r} and another one are both read from {path.name!r}; name an input for each "
                "modality in `inputs`"
            )
        found[modality] = path
    return found


def _find(network: nn.Module, spec: str, example: Call) -> InputPath | None:
    head, *rest = spec.split(".")
    base = parameter_path(network, head) or (InputPath(None, head) if head in example[1] else None)
    if base is not None:
        keys: list[str | int] = []
        value = base.get(example)
        for part in rest:
            key: str | int = int(part) if part.isdigit() and not isinstance(value, Mapping) else part
            if isinstance(value, Mapping) and key not in value:
                return None
            keys.append(key)
            value = value[key] if value is not None else None
        return InputPath(base.position, base.name, tuple(keys))
    for name in forward_of(network).parameters:
        path = parameter_path(network, name)
        value = path.get(example) if path else None
        if path and isinstance(value, Mapping) and spec in value:
            return InputPath(path.position, path.name, (spec,))
    return None


def _dict_keys(network: nn.Module, example: Call) -> str:
    args, kwargs = example
    keys = [str(key) for value in (*args, *kwargs.values()) if isinstance(value, Mapping) for key in value]
    return ", ".join(keys) or "none in the example"


def check_available(
    available: Any, modalities: Sequence[str], call: Call, paths: Mapping[str, InputPath]
) -> Bool[Tensor, "batch modality"]:
    """Return ``available``; a LightningMMError unless it is ``Bool[B, M]`` with the B of the inputs, no row empty."""
    available = check_mask("`available`", available, modalities)
    size = None
    for path in paths.values():
        # a loop: torch.compile takes neither next() with a default (2.6) nor := in a list (2.15)
        if size is None:
            size = batch_size(path.get(call))
    if size is not None and available.shape[0] != size:
        raise LightningMMError(
            f"`available` has {available.shape[0]} rows, the inputs have {size} samples; pass one row per sample: if "
            "several calls in one step are on other samples, make each inside `with adapter.using(its mask)`"
        )
    check_rows("`available`", available)
    return available


def replace_nothing(
    call: Call,
    available: Bool[Tensor, "batch modality"],
    paths: Mapping[str, InputPath],
    example: Call | None,
    network: nn.Module,
) -> Call:
    """Return the call with samples of the example in place of inputs that are None, which are absent in all samples.

    Args:
        call: What the network is called with.
        available: ``Bool[B, M]``.
        paths: Modality to its input.
        example: The call that the adapter was made with; None for a loaded adapter.
        network: The base; it may take None itself where that is the default of its ``forward`` or, for a loaded
            adapter, in a dict.

    Raises:
        LightningMMError: If an input is None and a sample has it, or there is no example.
    """
    if tracing():
        return call
    for column, (name, path) in enumerate(paths.items()):
        if path.get(call) is not None or _takes_nothing(network, path, example):
            continue
        usual = None if example is None else path.get(example)
        having = available[:, column].nonzero().flatten().tolist()
        if having or usual is None:
            what = f"`available` says that samples {having[:5]} have it" if having else "this adapter has no example"
            raise LightningMMError(
                f"the input of modality {name!r} is None, and {what}; pass a tensor of the usual shape, whose content "
                "does not matter where `available` is False"
            )
        size = batch_size(usual) or 1
        rows = take_rows(usual, torch.zeros(len(available), dtype=torch.long), size)
        call = path.put(call, map_tensors(rows, lambda tensor: tensor.to(available.device)))
    return call


def _takes_nothing(network: nn.Module, path: InputPath, example: Call | None) -> bool:
    if example is not None and path.get(example) is None:
        return True  # as it was adapted
    parameter = forward_of(network).parameters.get(path.name)
    if path.keys or parameter is None:
        return example is None
    return parameter.default is None


def fill_absent(
    call: Call, available: Bool[Tensor, "batch modality"], fill: Fill | None, paths: Mapping[str, InputPath]
) -> Call:
    """Return the call with absent inputs filled; arguments are not changed in place."""
    if fill is None:
        return call
    check_is_cheap = available.device.type == "cpu" and not tracing()
    complete = available.all(0).tolist() if check_is_cheap else [False] * len(paths)
    for column, (name, path) in enumerate(paths.items()):
        value = path.get(call)
        if value is not None and not complete[column]:
            call = path.put(call, fill(name, value, available[:, column]))
    return call
