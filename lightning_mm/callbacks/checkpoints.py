"""Checkpoints with the adapter and the fingerprint of its base, but without the base.

The base is removed in the ``on_save_checkpoint`` of the module, since ``save_weights_only=True`` skips callbacks. On
loading, the weights of the base are added to the weights of the adapter, so that the load is strict.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from lightning_mm.adapters.adapter import Adapter
from lightning_mm.adapters.placement.choose import keep_layers
from lightning_mm.adapters.saving.fingerprint import fingerprint
from lightning_mm.adapters.saving.folder import adapter_config, check_config, check_fingerprint, check_keys
from lightning_mm.adapters.saving.settings import with_defaults, with_public_paths
from lightning_mm.callbacks.averaging import with_base, without_base
from lightning_mm.errors import LightningMMError
from lightning_mm.tasks import BaseTask
from lightning_mm.tasks.checkpoints import ADAPTER_KEY
from lightning_mm.tasks.finite.weights import check_network, check_trained

NOT_WITHOUT_CALLBACK = (
    "none: this checkpoint holds an adapter and not its base, which load_from_checkpoint cannot add; give it as "
    "ckpt_path to a Trainer with its FrozenBackboneAdapter, or call FrozenBackboneAdapter(...).load(module, path)"
)
"""Stands where Lightning's ``load_from_checkpoint`` reads the function that makes a module, and so refuses to."""


class AdapterOnlyCheckpoint:
    """Replacements for the checkpoint hooks of a module, which they call; survive deepcopy and pickle.

    With a ``placement`` (its settings), the checkpoint also lists the chosen layers, and loading restores the choice.
    """

    def __init__(
        self,
        module: LightningModule,
        network_name: str,
        network: nn.Module,
        adapter: Adapter,
        placement: dict[str, Any] | None = None,
    ) -> None:
        self.prefix, self.network, self.adapter = f"{network_name}.", network, adapter
        self.placement = placement
        self.base_fingerprint = self._now = fingerprint(network)
        self._dtypes = _dtypes(network)
        self.loads_alone = isinstance(module, BaseTask)  # its own hook refuses to load without the callback
        adapter_config(adapter, self.base_fingerprint)  # raises now, not after an epoch, if settings cannot be saved
        self.own_save, self.own_load = module.on_save_checkpoint, module.on_load_checkpoint

    def install(self, module: LightningModule) -> None:
        """Replace both hooks of the module."""
        module.on_save_checkpoint = self.save  # type: ignore[method-assign]
        module.on_load_checkpoint = self.load  # type: ignore[method-assign]

    def save(self, checkpoint: dict[str, Any]) -> None:
        check_trained(self.adapter, checkpoint.get("global_step", 0))
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: value for key, value in state.items() if not key.startswith(self.prefix)}
        without_base(checkpoint, self.prefix)
        checkpoint[ADAPTER_KEY] = self._config()
        if not self.loads_alone:
            settings = dict(checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_KEY) or {})
            checkpoint[LightningModule.CHECKPOINT_HYPER_PARAMS_KEY] = {
                **settings,
                "_instantiator": NOT_WITHOUT_CALLBACK,
            }
        self.own_save(checkpoint)

    def follow_precision(self) -> None:
        """Accept the base as a trainer has converted it to another precision (``bf16-true``) in an earlier run."""
        if _dtypes(self.network) != self._dtypes:
            self._now, self._dtypes = fingerprint(self.network), _dtypes(self.network)

    def check_base(self) -> None:
        """Raise a LightningMMError if the base is not the one of the start any more."""
        if _dtypes(self.network) == self._dtypes and fingerprint(self.network) != self._now:
            raise LightningMMError(
                f"the frozen base, {type(self.network).__name__}, has other weights or statistics than before this "
                "fit: another callback or the module itself has changed them, and checkpoints of this run will not "
                "load onto the base; leave that callback out"
            )

    def load(self, checkpoint: dict[str, Any]) -> None:
        config = checkpoint.get(ADAPTER_KEY)
        if config is None:
            raise LightningMMError(
                "this checkpoint holds no adapter: it is that of the base or of another model; pass the checkpoint of "
                "the base as FrozenBackboneAdapter(base_ckpt=...), and that of the adapter as ckpt_path"
            )
        check_config(config, "the description of the adapter in the checkpoint")
        if config["base_fingerprint"] != self.base_fingerprint or fingerprint(self.network) != self._now:
            check_fingerprint(config["base_fingerprint"], self.network)
        if config.get("placement") != self.placement:
            raise _differing(["placement"], config, {"placement": self.placement})
        if self.placement is not None:
            keep_layers(self.adapter, self.network, [site["name"] for site in config["sites"]])
        found = {
            key.removeprefix("adapter."): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith("adapter.")
        }
        check_keys(self.adapter.state_dict(), found, "the checkpoint")
        check_network(self.adapter, "the adapter in the checkpoint", found)
        self._check_settings(config)
        for key, value in self.network.state_dict().items():
            checkpoint["state_dict"][self.prefix + key] = value
        with_base(checkpoint, self.prefix, self.network)
        self.own_load(checkpoint)

    def _check_settings(self, config: dict[str, Any]) -> None:
        mine = self._config()
        # older releases named the files of classes, and did not know all arguments
        config = with_defaults(with_public_paths(config))
        not_learned = ("version", "encoders", "grouped", "for_all", "deep_supervision")
        differing = [key for key in mine if key not in not_learned and mine[key] != config.get(key)]
        if differing:
            raise _differing(differing, config, mine)

    def _config(self) -> dict[str, Any]:
        config = adapter_config(self.adapter, self.base_fingerprint)
        return config if self.placement is None else {**config, "placement": dict(self.placement)}


def saver_of(module: LightningModule) -> AdapterOnlyCheckpoint | None:
    """The hooks that save and load the adapter of a module."""
    saver = getattr(module.on_save_checkpoint, "__self__", None)
    return saver if isinstance(saver, AdapterOnlyCheckpoint) else None


def _dtypes(network: nn.Module) -> set[torch.dtype]:
    return {value.dtype for value in network.state_dict().values()}


def _differing(keys: list[str], there: dict[str, Any], here: dict[str, Any]) -> LightningMMError:
    return LightningMMError(
        f"the adapter in the checkpoint has other settings than the config, in {', '.join(keys)}: "
        f"{keys[0]} is {_short(there.get(keys[0]))} in the checkpoint and {_short(here[keys[0]])} in the config; use "
        "the config of the run that wrote the checkpoint"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:120] + " ..."
