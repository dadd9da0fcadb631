"""A callback that sends a signal to its own process, or to the study that has started it, in a training."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch import Callback, Trainer

SIGNAL_AT = "SIGNAL_AT"
"""Environment variable: end of the root folder of the training, name of the signal, and ``self`` or ``parent``."""


class SignalAt(Callback):
    """Sends the signal in the first rank after the second batch of that training; else does nothing."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        where, name, to = os.environ.get(SIGNAL_AT, "  ").split(" ")
        if where and trainer.default_root_dir.endswith(where) and trainer.is_global_zero and trainer.global_step == 2:
            os.kill(os.getpid() if to == "self" else os.getppid(), signal.Signals[name])
