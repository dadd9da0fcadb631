"""Follows a fit for its run of Weights & Biases, and links the run of a sweep to that of its fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info

from lightning_mm.errors import LightningMMError
from lightning_mm.provenance import STUDY
from lightning_mm.tasks.checkpoints import read_checkpoint
from lightning_mm.tracking.identity import CHECKPOINT_ENTRY, FitRun, config_key, run_to_continue
from lightning_mm.tracking.logger import OfflineFirstWandbLogger


def follow_fit(
    trainer: Trainer, config: Callable[[], Mapping[str, Any]], ckpt_path: str | None, again: bool, base: object
) -> None:
    """Let a fit write to the run that it continues, or to a new one.

    Args:
        trainer: Its trainer.
        config: Makes its whole config in plain types.
        ckpt_path: The checkpoint that it resumes.
        again: Whether it may be the start of a fit that was ended before it had a checkpoint.
        base: The checkpoint of the base that it starts from, if it has one.

    Raises:
        LightningMMError: If ``wandb_run.json`` is damaged.
    """
    logger = _logger_of(trainer)
    if logger is None or logger.disabled:
        return
    logger.set_defaults(group=os.environ.get(STUDY), config=_linked("base_run", base))
    folder = str(trainer.default_root_dir)
    if "://" in folder or getattr(trainer, "fast_dev_run", False):
        return
    trainer.callbacks.append(FollowFit(logger))  # type: ignore[attr-defined]
    if not trainer.is_global_zero:
        return
    key = config_key(config())
    checkpoint = _read(ckpt_path)
    before, word = run_to_continue(Path(folder), key, checkpoint, again)
    if word:
        rank_zero_info(f"Weights & Biases: {word}")
    logger.follow_fit(Path(folder), key, before, partial(step_of, trainer))


def link_sweep(loggers: Sequence[Logger], ckpt_path: str | None) -> None:
    """Let the run of a sweep name the fit that trained its network."""
    for logger in _ours(loggers):
        fit = _fit_run(ckpt_path)
        group = os.environ.get(STUDY) or (fit.group if fit is not None else None)
        logger.set_defaults(group=group, config=_linked("fit_run", ckpt_path))


def _read(ckpt_path: str | None) -> Mapping[str, Any] | None:
    if ckpt_path is None:
        return None
    # Lightning looks for `last` and `hpc` later; what such a fit continues is said by the folder alone.
    return read_checkpoint(ckpt_path, in_place=True) if Path(ckpt_path).is_file() else {}


def _logger_of(trainer: Trainer) -> OfflineFirstWandbLogger | None:
    return next(iter(_ours(trainer.loggers)), None)


def _ours(loggers: Sequence[Logger]) -> list[OfflineFirstWandbLogger]:
    """The logger of W&B, which has one run per process."""
    return [one for one in loggers if isinstance(one, OfflineFirstWandbLogger)][:1]


def _linked(name: str, path: object) -> dict[str, Any]:
    run = _fit_run(path)
    return {} if run is None else {name: run.link()}


def _fit_run(path: object) -> FitRun | None:
    if not isinstance(path, (str, Path)) or not Path(path).is_file():
        return None
    try:
        return FitRun.of(read_checkpoint(path, in_place=True))
    except LightningMMError:
        return None  # whoever loads the weights says what is wrong


class FollowFit(Callback):
    """Tells a logger how far its fit is, and lets checkpoints name its run.

    Every rank has one, as figures of an epoch are computed by all ranks together.

    Args:
        logger: In the first rank, :meth:`~lightning_mm.tracking.OfflineFirstWandbLogger.follow_fit` was called of it.
    """

    def __init__(self, logger: OfflineFirstWandbLogger) -> None:
        self.logger = logger

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.logger.step_began()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        entry = self.logger.for_checkpoint(*_still_to_log(trainer))
        if entry is not None:
            checkpoint[CHECKPOINT_ENTRY] = entry


def step_of(trainer: Trainer) -> int:
    """The step that Lightning logs with in a training, from 0."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def _still_to_log(trainer: Trainer) -> tuple[int, dict[str, Any]]:
    """The step, and what a batch or an epoch that ends now has logged in it.

    Lightning passes it to loggers after the hooks that save checkpoints, and a resume goes on with the next one.
    """
    loop, connector, step = trainer.fit_loop.epoch_loop, trainer._logger_connector, step_of(trainer)
    if not trainer.training or trainer._results is None:
        return step, {}
    done: Any = loop.batch_progress.current
    if connector._first_loop_iter is None:  # the epoch: what it logs has the step of its last batch
        step -= 1
    elif done.processed == done.completed or loop._should_accumulate() or not connector.should_update_logs:
        return step, {}
    values = connector.metrics["log"]  # on all ranks, which compute those of an epoch together
    return step, {**convert_tensors_to_scalars(values), "epoch": trainer.current_epoch} if values else {}
