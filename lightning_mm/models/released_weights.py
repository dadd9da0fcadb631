"""Loading weights that others have released into our networks: strictly; errors name what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.errors import DataNotFoundError, LightningMMError

SHOWN = 3
"""How many keys an error message names."""

WRAPPERS = ("model_state_dict", "state_dict")
"""Entries of checkpoints that hold a ``state_dict``."""


def read_released(path: str | Path, what: str, way_out: str) -> Mapping[str, Any]:
    """Read a dict of tensors and plain types from a file of torch (``weights_only=True``: no code is unpickled).

    Args:
        path: The file.
        what: The weights, for the error message.
        way_out: Where they come from or what to do without them, for the error message.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is damaged or holds anything else.
    """
    if not Path(path).is_file():
        raise DataNotFoundError(f"no {what} at {path}; {way_out}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports damage in many ways, depending on where it begins
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LightningMMError(
            f"the {what} {path} cannot be read as tensors and plain types ({reason}); if the file is whole, "
            "save its `state_dict` alone with torch.save"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise LightningMMError(f"the {what} {path} are a {type(checkpoint).__name__}, expected a state_dict; {way_out}")
    return checkpoint


def start_from(setting: str, path: str, what: str, way_out: str, load: Callable[[Mapping[str, Any]], None]) -> None:
    """Read released weights from a file and load them; errors name the setting and the file.

    Args:
        setting: The argument of the network that names the file.
        path: The file.
        what: See :func:`read_released`.
        way_out: See :func:`read_released`.
        load: Called with what was read.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it cannot be read, or does not fit.
    """
    weights = read_released(path, what, way_out)
    try:
        load(weights)
    except LightningMMError as error:
        raise LightningMMError(f"{setting} {path}: {error}") from error


def unwrap(checkpoint: Mapping[str, Any], ignored: Sequence[str] = ()) -> dict[str, Tensor]:
    """Take the tensors of a bare or wrapped ``state_dict``, without the ``module.`` of data parallel training.

    Args:
        checkpoint: As it was read.
        ignored: Beginnings of keys that are left out.

    Raises:
        LightningMMError: If there is no tensor in it.
    """
    inner = next((checkpoint[name] for name in WRAPPERS if isinstance(checkpoint.get(name), Mapping)), checkpoint)
    state = {key: value for key, value in inner.items() if isinstance(value, Tensor)}
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(tuple(ignored))}
    if not state:
        raise LightningMMError(
            f"expected a state_dict of tensors, bare or as one of the entries {list(WRAPPERS)}, "
            f"got a dict of {some(list(checkpoint)) or 'nothing'}"
        )
    return state


def load_released(
    network: nn.Module, state: Mapping[str, Tensor], keys: Mapping[str, str], what: str, hint: str
) -> None:
    """Load released weights under our names; nothing changes unless everything fits.

    Args:
        network: To load into.
        state: The released weights, as :func:`unwrap` gives them.
        keys: Our key to the released one; parts of the network that have none stay as they are.
        what: The weights, for the error message.
        hint: The way out, for the error message.

    Raises:
        LightningMMError: If a key is missing or left over or a shape differs; the message says which.
    """
    own = network.state_dict()
    check_fit({released: own[name] for name, released in keys.items()}, state, what, type(network).__name__, hint)
    network.load_state_dict({**own, **{name: state[released] for name, released in keys.items()}})


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str, network: str, hint: str) -> None:
    """Raise a LightningMMError unless the keys and shapes of ``state`` are the expected ones.

    Args:
        expected: Key to a tensor of the right shape.
        state: The weights.
        what: The weights, for the error message.
        network: The class that they are for, for the error message.
        hint: The way out, for the error message.
    """
    found = misfit(expected, state)
    if found:
        raise LightningMMError(f"{what} do not fit this {network}: the state_dict {found}; {hint}")


def misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Say what keeps a ``state_dict`` from fitting, by name; an empty text if it fits.

    Example:
        >>> import torch
        >>> misfit({"a": torch.zeros(2), "b": torch.zeros(1)}, {"a": torch.zeros(3), "c": torch.zeros(1)})
        'lacks b; has unknown c; has other shapes: a (3,) instead of (2,)'
    """
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    findings = [
        ("lacks", [key for key in expected if key not in state]),
        ("has unknown", [key for key in state if key not in expected]),
        ("has other shapes:", reshaped),
    ]
    return "; ".join(f"{what} {some(keys)}" for what, keys in findings if keys)


def some(keys: Sequence[str]) -> str:
    """List the first few of many."""
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def renamed(keys: Iterable[str], parts: Mapping[str, str]) -> dict[str, str]:
    """Map our keys to released ones, by the names of the modules and parameters that they begin with.

    Args:
        keys: Of our ``state_dict``.
        parts: Our name of a module or parameter to the released one; the longest that fits counts.

    Raises:
        KeyError: If a key begins with none of them.

    Example:
        >>> renamed(["stem.norm.weight", "scale"], {"stem.norm": "bn1", "scale": "gamma"})
        {'stem.norm.weight': 'bn1.weight', 'scale': 'gamma'}
    """
    found = {}
    for key in keys:
        part = key
        while part not in parts:
            part, _, last = part.rpartition(".")
            if not last:
                raise KeyError(key)
        found[key] = parts[part] + key.removeprefix(part)
    return found
