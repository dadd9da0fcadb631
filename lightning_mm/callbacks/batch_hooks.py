"""Hooks of a module that replace those of a callback while Lightning's finders have put all callbacks aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

STARTS = ("on_train_batch_start", "on_validation_batch_start", "on_test_batch_start", "on_predict_batch_start")


class BatchStart:
    """A module's own hook at the start of a batch, which first runs the hook of a callback that is put aside.

    ``LearningRateFinder``, ``BatchSizeFinder`` and ``Tuner`` train with other callbacks than the trainer's; the module
    and its hooks stay. A copy or a pickle of the module gets its own hook back.

    Args:
        name: The hook.
        callback: The callback.
        trainer: Of the run.
        module: The module that is trained.
    """

    def __init__(self, name: str, callback: Callback, trainer: Trainer, module: LightningModule) -> None:
        self.name, self.callback, self.trainer, self.module = name, callback, trainer, module
        self.own: Callable[..., Any] = getattr(module, name)
        self.__wrapped__ = self.own  # Lightning asks whether a module has a hook of its own

    def __call__(self, *args: Any) -> Any:
        if self.callback not in self.trainer.callbacks:  # type: ignore[attr-defined]
            getattr(self.callback, self.name)(self.trainer, self.module, *args)
        return self.own(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.own,)


def install(callback: Callback, trainer: Trainer, module: LightningModule) -> None:
    """Put the hooks in place on the instance, in place of those of an earlier run."""
    uninstall(module)
    for name in STARTS:
        setattr(module, name, BatchStart(name, callback, trainer, module))


def uninstall(module: LightningModule) -> None:
    """Remove the hooks."""
    for name in STARTS:
        hook = vars(module).get(name)
        if isinstance(hook, BatchStart):
            delattr(module, name)
            if hook.own != getattr(module, name):
                setattr(module, name, hook.own)


def _itself(own: Any) -> Any:
    return own
