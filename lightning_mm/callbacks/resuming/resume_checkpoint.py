"""Stops a training at a signal and saves where it was, so that it can be resumed exactly."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn

from lightning_mm.callbacks.resuming.last import LastCheckpoint, is_whole_step
from lightning_mm.callbacks.resuming.position import Position, rewrite
from lightning_mm.callbacks.resuming.slurm import leave_requeueing_to_us
from lightning_mm.errors import LightningMMError, Stopped
from lightning_mm.files import replaced_file
from lightning_mm.signals import WARNING, Signals

RESUME = "resume.ckpt"
"""The checkpoint of a training that was stopped, in the ``default_root_dir`` of its trainer."""
SETTINGS = "lightning_mm_settings"
"""Entry of a checkpoint that holds the settings of its run."""
_STRONGER = 1000


class ResumeCheckpoint(Callback):
    """Saves and ends a training at SIGUSR2 or SIGTERM, so that the resumed run equals the uninterrupted one.

    The handler only remembers the signal. After the next whole step of the optimizer, or the next batch of a
    validation, all ranks agree, the first one writes ``resume.ckpt`` into ``default_root_dir`` (next to its place, then
    renamed), and the process ends: with exit code 75 after SIGUSR2, which asks a batch script to start it again, and
    with 143 after SIGTERM. A run that ends well removes it. ``last.ckpt`` of a ``ModelCheckpoint(save_last=True)``
    is written after every epoch, not only when the monitored metric has improved. Lightning neither saves nor requeues
    a job of Slurm by itself.

    ``lightning-mm fit`` has this callback by itself; list it to set ``every_minutes``. With your own Trainer, the data
    must continue where they were, as :class:`~lightning_mm.data.ModalityDropoutDataModule` does, and random numbers of
    the network must be keyed, see :class:`~lightning_mm.callbacks.KeyedSeed`.

    With manual optimization every batch counts as a whole step. In an epoch that was resumed in its middle, the logged
    mean of ``train/loss`` counts the batches after that only.

    Args:
        every_minutes: Write ``resume.ckpt`` this often too, for failures that give no signal; by default never.

    Raises:
        LightningMMError: If ``every_minutes`` is not above 0.

    Example:
        >>> resume = ResumeCheckpoint(every_minutes=30)
        >>> resume.checkpoint("runs/a") is None  # nothing to resume yet: Trainer(...).fit(..., ckpt_path=None)
        True
    """

    def __init__(self, every_minutes: float | None = None) -> None:
        if every_minutes is not None and not every_minutes > 0:
            raise LightningMMError(f"ResumeCheckpoint: every_minutes must be above 0, got {every_minutes}")
        self.every_minutes = every_minutes
        self.signals: Signals | None = None
        """Of the command line; with a user's Trainer the callback sets its own handlers while it trains."""
        self.listens = True
        """Whether it sets handlers, in the main thread."""
        self.settings: dict[str, Any] | None = None
        """Kept in all checkpoints of the run."""
        self.has_older = False
        """Whether there is a file of this run already, which is removed in the end even if it was not resumed."""
        self.progressed = False
        """Whether this process has saved, in ``resume.ckpt`` or ``last.ckpt``, a step that it has trained."""
        self._listening: Signals | None = None
        self._before: dict[int, Any] = {}
        self._position: Position | None = None
        self._saved, self._first_step = 0.0, 0
        self._validated = -1  # batches of the run at the last validation
        self._to_validate = 0
        self._written = self._stopping = False
        self._failure = ""  # why it could not save the last time; a full disk is said once

    @staticmethod
    def checkpoint(folder: str | Path) -> str | None:
        """The ``resume.ckpt`` in a folder, for ``Trainer.fit(ckpt_path=...)``; ``None`` at the first start."""
        path = Path(folder) / RESUME
        return str(path) if path.is_file() else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            leave_requeueing_to_us(trainer)
            others = [one for one in trainer.callbacks if not isinstance(one, LastCheckpoint)]  # type: ignore[attr-defined]
            trainer.callbacks = [*others, LastCheckpoint()]  # type: ignore[attr-defined]

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stopping = False
        self._saved, self._first_step, self.progressed = time.monotonic(), trainer.global_step, False
        self._listen().deferring = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress
        completed = batches.current.completed
        # Directly after a validation Lightning would do again what follows one.
        if (
            completed
            and completed % trainer.accumulate_grad_batches == 0
            and batches.total.completed != self._validated
        ):
            self._look(trainer, pl_module, "before a batch")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer, pl_module, "before an epoch")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        count = trainer.num_val_batches
        total = sum(count) if isinstance(count, list) else count
        self._to_validate = 0 if total == float("inf") or not is_whole_step(trainer) else int(total)
        if trainer.world_size > 1:  # ranks of an own sampler may have different numbers of batches
            least = torch.tensor(self._to_validate, device=trainer.strategy.root_device)
            self._to_validate = int(trainer.strategy.reduce(least, reduce_op="min"))
        if self._to_validate:
            self._look(trainer, pl_module, "in validation")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._to_validate > 1:
            self._to_validate -= 1
            self._look(trainer, pl_module, "in validation", averaged=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = trainer.fit_loop.epoch_loop.batch_progress.total.completed

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        place = Path(trainer.default_root_dir) / RESUME
        resumed = trainer.ckpt_path is not None and Path(trainer.ckpt_path).absolute() == place.absolute()
        if trainer.is_global_zero and (self._written or self.has_older or resumed):
            place.unlink(missing_ok=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.progressed = self.progressed or trainer.global_step > self._first_step
        if self.settings is not None:
            checkpoint[SETTINGS] = self.settings
        if self._position is not None:
            rewrite(checkpoint, self._position)

    def _look(self, trainer: Trainer, module: LightningModule, position: Position, averaged: bool = False) -> None:
        """Save and stop if any rank was asked to; all ranks come here at the same time."""
        listening = self._listening
        if listening is None or getattr(trainer, "fast_dev_run", False):
            return
        number, due = self._agreed(trainer, listening)
        if not number and not due:
            return
        failure = ""
        if trainer.global_step > self._first_step:
            with _not_averaged(trainer, module, averaged):
                failure = self._save(trainer, position)
        self._saved = time.monotonic()
        if not number:
            if failure and failure != self._failure:
                rank_zero_warn(f"{RESUME} was not written, and the training goes on: {failure}")
            self._failure = failure
            return
        listening.received = number
        listening.quiet = not trainer.is_global_zero
        place = Path(trainer.default_root_dir) / RESUME
        if failure:
            listening.note = f"{RESUME} was not written: {failure}"
        elif place.is_file():
            listening.note = f"resume with --ckpt_path {place}" if self.signals else f"resume with ckpt_path={place}"
        self._stopping = True
        listening.ending()
        if self.signals is not None:
            raise Stopped(number)
        raise SystemExit(listening.code)

    def _agreed(self, trainer: Trainer, listening: Signals) -> tuple[int, bool]:
        """The strongest signal that a rank has got, 0 if none has; and whether it is time to save."""
        number = listening.received or 0
        due = self.every_minutes is not None and time.monotonic() - self._saved >= 60 * self.every_minutes
        if trainer.world_size > 1:
            asked = number + (_STRONGER if number not in (0, WARNING) else 0)
            both = torch.tensor([asked, int(due)], device=trainer.strategy.root_device)
            asked, time_is_up = trainer.strategy.reduce(both, reduce_op="max").tolist()
            number, due = asked % _STRONGER, bool(time_is_up)
        return number, due

    def _save(self, trainer: Trainer, position: Position) -> str:
        """Write ``resume.ckpt`` as a whole; returns what went wrong in this rank."""
        self._position, told, saved = position, False, False
        place, part = Path(trainer.default_root_dir) / RESUME, None
        try:
            # Ranks other than the first one touch no file; they take part in what gathers the weights.
            with replaced_file(place) if trainer.is_global_zero else nullcontext() as new:
                told, part = True, trainer.strategy.broadcast(None if new is None else str(new))
                if part is not None:
                    trainer.save_checkpoint(part, weights_only=False)
                saved = True
            self._written = True
        except (OSError, RuntimeError, LightningMMError) as error:
            if not told:
                trainer.strategy.broadcast(None)
            elif not saved:
                trainer.strategy.barrier()  # the others wait there, at the end of save_checkpoint
            return str(error) if part is None else str(error).replace(part, str(place))
        finally:
            self._position = None
        return ""

    def _listen(self) -> Signals:
        """Set the handlers in place of Lightning's, which talks to other ranks whatever they are waiting for."""
        listening = self._listening = self._listening or self.signals or Signals()
        if self.listens and not self._before and threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGTERM] if self.signals else [signal.SIGTERM, *([WARNING] if WARNING > 0 else [])]
            self._before = {number: signal.signal(number, listening) for number in numbers}
        return listening

    def _end(self) -> None:
        if self._listening is not None:
            self._listening.deferring = False
            self._listening = None
        if not self._stopping:  # Lightning puts the handlers of the caller back
            for number, before in self._before.items():
                signal.signal(number, before)
        self._before = {}


@contextmanager
def _not_averaged(trainer: Trainer, module: LightningModule, averaged: bool) -> Iterator[None]:
    """Give the module its own weights back within the block, if a validation runs on averaged ones."""
    averaging: list[WeightAveraging] = []
    if averaged:
        averaging = [one for one in trainer.callbacks if isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]
    for one in averaging:
        one.on_validation_epoch_end(trainer, module)
    try:
        yield
    finally:
        for one in averaging:
            one.on_validation_epoch_start(trainer, module)
