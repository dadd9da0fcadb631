"""Says what a resumed fit does differently from the run that wrote its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_mm.errors import LightningMMError

RUN_KEY = "lightning_mm_run"
"""Entry of a checkpoint that holds the settings of its run."""

FROM_CHECKPOINT = ("learning rate", "weight decay")
"""Settings that the state of the optimizer brings along, whatever the config says."""

REFUSED = ("optimizer", "lr_scheduler")
"""Classes whose saved state another class cannot use."""


class ResumedRun:
    """Compares the settings of a fit with those in the checkpoint that it resumes.

    Lightning restores the state of optimizers and schedules and says nothing of what the config asks for instead.
    """

    def __init__(self) -> None:
        self.before: Mapping[str, Any] | None = None
        self.optimizer: dict[str, Any] = {}

    def read(self, module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
        """Keep the settings in a checkpoint that a fit resumes."""
        fitting = module._trainer is not None and module.trainer.state.fn == "fit"
        old = checkpoint.get(RUN_KEY) if fitting else None
        self.before = old and {**old, "hyper-parameters": _plain(checkpoint.get("hyper_parameters"))}

    def begin(self, module: LightningModule) -> None:
        """Look at the fit's own optimizers, before their state is restored.

        Raises:
            LightningMMError: If the checkpoint is of another class of optimizer or schedule.
        """
        self.optimizer = _optimizer_settings(module.trainer)
        for key in REFUSED if self.before else ():
            old, new = (settings.get(key) for settings in (self.before or {}, self.optimizer))
            if old and new and old != new:
                raise LightningMMError(
                    f"the checkpoint is of a run with {key} {', '.join(old)}, and this one has {', '.join(new)}, which "
                    "cannot use its state; resume with the settings of that run, or start a new run from its weights "
                    "with base_ckpt"
                )

    def warn(self, module: LightningModule) -> None:
        """Warn once of all settings that differ, when the data are there."""
        if self.before is None:
            return
        now = {**self.settings(module), "hyper-parameters": _plain(dict(module.hparams))}
        lines = []
        for name, old in _flat(self.before).items():
            new = _flat(now).get(name)
            if new != old:
                kept = "; the checkpoint's is used" if name in FROM_CHECKPOINT else ""
                lines.append(f"{name}: {old} in the checkpoint, {new} now{kept}")
        for name in FROM_CHECKPOINT:  # what is in use, for the checkpoints of this run
            self.optimizer[name] = self.before.get(name, self.optimizer.get(name))
        self.before = None
        if lines:
            rank_zero_warn(
                "this fit resumes a checkpoint of a run with other settings, so it equals no uninterrupted run: "
                + "; ".join(lines)
            )

    def settings(self, module: LightningModule) -> dict[str, Any]:
        """The settings of a fit that decide its result, in plain types, for its checkpoints."""
        trainer = module.trainer
        run = {
            "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
        }
        return {**run, **self.optimizer, **_data_settings(trainer)}


def _optimizer_settings(trainer: Trainer) -> dict[str, Any]:
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return {
        "optimizer": [type(one).__name__ for one in trainer.optimizers],
        "lr_scheduler": [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs],
        "learning rate": _one(float(group.get("initial_lr", group["lr"])) for group in groups if "lr" in group),
        "weight decay": _one(float(group["weight_decay"]) for group in groups if "weight_decay" in group),
    }


def _data_settings(trainer: Trainer) -> dict[str, Any]:
    """The training data, once the trainer has opened them."""
    loader: Any = trainer.train_dataloader
    if loader is None:
        return {}
    dataset: Any = getattr(loader, "dataset", None)
    datamodule: Any = getattr(trainer, "datamodule", None)
    policies = getattr(datamodule, "policies", None)
    return {
        "dataset": getattr(dataset, "name", None) or type(dataset).__name__,
        "training samples": len(dataset) if hasattr(dataset, "__len__") else None,
        "batch size": getattr(datamodule, "batch_size", getattr(loader, "batch_size", None)),
        "data seed": getattr(datamodule, "seed", None),
        "switching": getattr(datamodule, "switching", None),
        "train_policy": repr(policies["train"]) if isinstance(policies, dict) and "train" in policies else None,
    }


def _one(values: Any) -> list[float]:
    """Different values in the order of the groups."""
    return list(dict.fromkeys(values))


def _plain(settings: Any) -> dict[str, Any]:
    return {str(key): value for key, value in (settings or {}).items() if not str(key).startswith("_")}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One entry per setting: lists of one value as the value, hyper-parameters by their names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "hyper-parameters":
            found |= {key: _value(one) for key, one in value.items()}
        else:
            found[name] = _value(value)
    return found


def _value(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return _value(value[0]) if len(value) == 1 else list(value)
    return value
