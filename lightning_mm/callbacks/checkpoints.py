"""Checkpoints that hold the adapter and the fingerprint of its base, and not the base.

The filter sits in the module's own ``on_save_checkpoint``, since ``save_weights_only=True`` skips callbacks. On loading, the
base's weights are put back beside the adapter's before the strict load, so that nothing is dropped silently.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.saving import adapter_config, check_fingerprint, check_keys, fingerprint
from lightning_mm.errors import DataNotFoundError, LightningMMError

ADAPTER_KEY = "lightning_mm_adapter"


class AdapterOnlyCheckpoint:
    """Stands before a module's checkpoint hooks; an object, so that it survives deepcopy and pickle."""

    def __init__(self, module: LightningModule, network_name: str, network: nn.Module, adapter: Adapter) -> None:
        self.prefix, self.network, self.adapter = f"{network_name}.", network, adapter
        self.base_fingerprint = fingerprint(network)
        self.own_save, self.own_load = module.on_save_checkpoint, module.on_load_checkpoint

    def install(self, module: LightningModule) -> None:
        """Put the two hooks in place on the instance."""
        module.on_save_checkpoint = self.save  # type: ignore[method-assign]
        module.on_load_checkpoint = self.load  # type: ignore[method-assign]

    def save(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: value for key, value in state.items() if not key.startswith(self.prefix)}
        checkpoint[ADAPTER_KEY] = adapter_config(self.adapter, self.base_fingerprint)
        self.own_save(checkpoint)

    def load(self, checkpoint: dict[str, Any]) -> None:
        config = checkpoint.get(ADAPTER_KEY)
        if config is None:
            raise LightningMMError(
                "this checkpoint holds no adapter: it is one of the base, or of another model. Give the base's checkpoint to "
                "FrozenBackboneAdapter(base_ckpt=...), and the adapter's own one as ckpt_path"
            )
        check_fingerprint(config["base_fingerprint"], self.network)
        found = {key.removeprefix("adapter."): value for key, value in checkpoint["state_dict"].items() if key.startswith("adapter.")}
        check_keys(self.adapter.state_dict(), found, "the checkpoint")
        rows, expected = config["rows"], list(self.adapter.basis.names)
        if rows != expected:
            raise LightningMMError(f"the checkpoint's adapter has rows for {rows}, the config asks for {expected}")
        for key, value in self.network.state_dict().items():
            checkpoint["state_dict"][self.prefix + key] = value
        self.own_load(checkpoint)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of plain types and tensors (``weights_only=True``: no code is unpickled).

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is damaged or holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(f"checkpoint {path} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).split("\n")[0]
        raise LightningMMError(f"checkpoint {path} cannot be read as tensors and plain types: {reason}") from None
    if not isinstance(checkpoint, dict):
        raise LightningMMError(f"checkpoint {path} holds a {type(checkpoint).__name__}, expected a dict of tensors or a Lightning checkpoint")
    return checkpoint


def load_weights(module: LightningModule, path: str | Path) -> None:
    """Load a Lightning checkpoint into a module as a trainer would: through its ``on_load_checkpoint``, strictly.

    Raises:
        DataNotFoundError: If there is no such file.
        LightningMMError: If it is damaged or of another network; missing, left-over and misshapen keys are named.
    """
    checkpoint = read_checkpoint(path)
    if "state_dict" not in checkpoint:
        raise LightningMMError(f"checkpoint {path} has no 'state_dict': it is no Lightning checkpoint")
    module.on_load_checkpoint(checkpoint)
    check_state(module, checkpoint["state_dict"], str(path))
    module.load_state_dict(checkpoint["state_dict"])


def load_network(network: nn.Module, path: str | Path, prefix: str) -> None:
    """Load a base from a Lightning checkpoint (entries under ``prefix``) or from a bare ``state_dict``."""
    checkpoint = read_checkpoint(path)
    if ADAPTER_KEY in checkpoint:
        raise LightningMMError(f"{path} is an adapter's checkpoint and does not hold the base; give the base's own checkpoint as base_ckpt")
    state = checkpoint.get("state_dict", checkpoint)
    under = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    state = under or state
    check_state(network, state, str(path))
    network.load_state_dict(state)


def check_state(module: nn.Module, state: dict[str, Any], where: str) -> None:
    """Raise one clear error when a ``state_dict`` is of another network; the first few keys are named."""
    expected = module.state_dict()
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    shapes = [
        f"{key} (expected {tuple(expected[key].shape)}, got {tuple(state[key].shape)})"
        for key in sorted(set(expected) & set(state))
        if expected[key].shape != state[key].shape
    ]
    if missing or extra or shapes:
        parts = [
            f"{len(keys)} {what}, e.g. {', '.join(keys[:3])}"
            for what, keys in (("missing", missing), ("left over", extra), ("of another shape", shapes))
            if keys
        ]
        raise LightningMMError(f"{where} is a checkpoint of another network than {type(module).__name__}: {'; '.join(parts)}")
