"""Reads checkpoints and loads networks from them strictly; errors name what does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.models.released_weights import misfit
from lightning_mm.tasks.finite.weights import check_network

_REFUSED = re.compile(r"GLOBAL (\S+) (?:was not an allowed global|(whose module \S+ is blocked))")
"""How torch names the class or function that a file asks for."""

ADAPTER_KEY = "lightning_mm_adapter"
"""Entry of a checkpoint that holds an adapter and not its base."""


def read_checkpoint(path: str | Path, in_place: bool = False) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain types (``weights_only=True``: no code is unpickled).

    Args:
        path: The file.
        in_place: Whether tensors stay in the file until they are used, which makes a look at a large file cheap.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is damaged or holds anything else.
    """
    if not Path(path).is_file():
        raise DataNotFoundError(f"checkpoint {path} does not exist; give the .ckpt file of an earlier run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=in_place or None)
    except Exception as error:  # torch reports damage in many ways, depending on where it begins
        refused = _REFUSED.search(str(error))
        if refused:
            raise LightningMMError(_refusal(path, refused[1], blocked=bool(refused[2]))) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LightningMMError(f"checkpoint {path} cannot be read as tensors and plain types: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise LightningMMError(
            f"checkpoint {path} holds a {type(checkpoint).__name__}; expected a state_dict or a Lightning checkpoint"
        )
    return checkpoint


def load_network(
    network: nn.Module, path: str | Path, prefix: str = "model.", parts: tuple[str, ...] | None = None
) -> None:
    """Load a network from a Lightning checkpoint, a bare ``state_dict`` or released weights, strictly.

    Args:
        network: As it was built for the checkpoint; changed in place only if everything fits. A method
            ``load_reference`` of the network gets files in which no key is the network's own.
        path: The file.
        prefix: Of the network's keys in the checkpoint of its LightningModule; other parts are ignored.
        parts: The only children of the network to load; all others keep their values. None loads the whole network.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is no checkpoint, or that of an adapter or of another network.
    """
    checkpoint = read_checkpoint(path)
    state = network_state(path, prefix, checkpoint)
    if parts is not None:
        own = nn.ModuleDict({name: network.get_submodule(name) for name in parts})
        network, state = own, {key: value for key, value in state.items() if key.partition(".")[0] in parts}
    load_reference = getattr(network, "load_reference", None)
    if load_reference is not None and network.state_dict().keys().isdisjoint(state):
        try:
            load_reference(checkpoint)
        except LightningMMError as error:
            raise LightningMMError(f"base_ckpt {path}: {error}") from error
        check_network(network, f"base_ckpt {path}")
        return
    check_state(network, state, f"base_ckpt {path}")
    network.load_state_dict(state)


def network_state(
    path: str | Path, prefix: str = "model.", checkpoint: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Return the tensors of the network in a checkpoint, under the network's own keys; errors of :func:`load_network`.

    Args:
        path: The file.
        prefix: See :func:`load_network`.
        checkpoint: What was read from the file, if it was.
    """
    checkpoint = read_checkpoint(path) if checkpoint is None else checkpoint
    if ADAPTER_KEY in checkpoint:
        raise LightningMMError(
            f"{path} is an adapter's checkpoint and does not hold the base; give the base's own one as base_ckpt"
        )
    state = checkpoint.get("state_dict", checkpoint)
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def load_weights(module: LightningModule, path: str | Path) -> None:
    """Load a Lightning checkpoint into a module as a trainer would: through its ``on_load_checkpoint``, strictly.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is damaged or of another network; the message names what does not fit.
    """
    checkpoint = read_checkpoint(path)
    if "state_dict" not in checkpoint:
        raise LightningMMError(f"checkpoint {path} has no 'state_dict': it is no Lightning checkpoint")
    module.on_load_checkpoint(checkpoint)
    check_state(module, checkpoint["state_dict"], f"checkpoint {path}")
    module.load_state_dict(checkpoint["state_dict"])


def check_state(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Raise a LightningMMError if a ``state_dict`` is of another network or not finite; the first keys are named."""
    found = misfit(module.state_dict(), state)
    if found:
        raise LightningMMError(
            f"{where} holds another network than this {type(module).__name__}: it {found}; "
            "use the model settings of the run that wrote it"
        )
    check_network(module, where, state)


def _refusal(path: str | Path, name: str, blocked: bool) -> str:
    """Why a file that asks for a class or function is not read, and what to do."""
    start = f"checkpoint {path} holds an object of {name} and not only tensors and plain types"
    if blocked:
        return f"{start}; no weights need it, and it could run any code: do not load this file anywhere"
    return (
        f"{start}, as torch.save(network) writes it; reading it would run its code, so it is refused. Where that code "
        "is installed and trusted, save the weights alone (of a dict, its entry of weights) and give that file: "
        f"python -c \"import torch; torch.save(torch.load({str(path)!r}, map_location='cpu', "
        "weights_only=False).state_dict(), 'weights.pt')\""
    )
