"""Loading the network of a checkpoint as the base of a new run, with mismatches told by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError

SHOWN = 3
"""How many keys an error message names."""


def load_base(model: nn.Module, path: str, prefix: str = "model.") -> None:
    """Load the weights of a network from a Lightning checkpoint or a plain state dict, strictly.

    Args:
        model: The network, as it was built for the checkpoint; changed in place only if everything fits.
        path: The file; only tensors and plain types are unpickled.
        prefix: Where the network lies in the checkpoint of its LightningModule; other parts are left alone.

    Raises:
        LightningMMError: If the file is not there, is not a checkpoint, or holds another network.
    """
    if not Path(path).is_file():
        raise LightningMMError(f"base_ckpt {path!r} does not exist; give the .ckpt file of the run of the base")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LightningMMError(f"base_ckpt {path!r} cannot be read as a checkpoint: {reason}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if missing or unknown or reshaped:
        findings = [("lacks", missing), ("has unknown", unknown), ("has other shapes:", reshaped)]
        raise LightningMMError(
            f"base_ckpt {path!r} holds another network: it "
            + "; ".join(f"{what} {_some(keys)}" for what, keys in findings if keys)
            + "; use the model settings of the run that wrote it"
        )
    model.load_state_dict(state)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
