"""Checkpoints of the command line: whole files, read without running code, at places that were looked at before."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lightning_mm.callbacks import BestModelCheckpoint
from lightning_mm.errors import LightningMMError
from lightning_mm.files import check_folder, remove_leftovers, write_atomically
from lightning_mm.tasks.checkpoints import read_checkpoint

VERSION = "pytorch-lightning_version"
TRAINING: dict[str, type] = {"loops": dict, "optimizer_states": list, "lr_schedulers": list, "epoch": int}
"""Entries of a checkpoint that a resumed training needs."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint next to its place and renames it, and reads tensors and plain types only.

    Lightning writes it to the system's temporary folder: where that is on another disk, moving it is copying it, and a
    kill leaves half a file; and into a folder that has the name of the checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if storage_options is not None or _is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # Not into the file: the error of a full disk would be torch's own, which does not say so.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path)


def use_whole_checkpoints(trainer: Trainer) -> None:
    """Write and read checkpoints as whole files, where the strategy does so and the config names no other plugin."""
    strategy = trainer.strategy
    if type(strategy) in (SingleDeviceStrategy, DDPStrategy) and type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpoints()


def check_content(name: str, path: str, resumed: bool) -> None:
    """Refuse a checkpoint that Lightning could not read, before data and network are made.

    Args:
        name: The setting, for the message.
        path: The file.
        resumed: Whether a training is to be resumed, which needs more than weights.

    Raises:
        LightningMMError: If it is damaged, or holds something else than plain types or than Lightning writes.
    """
    found = read_checkpoint(path)
    start = f"{name}: {path!r}"
    if not isinstance(found.get("state_dict"), dict) or not isinstance(found.get(VERSION), str):
        raise LightningMMError(
            f"{start} is no checkpoint that a `fit` wrote (expected state_dict and {VERSION}, found "
            f"{_some(found)}); bare weights of a network are given as --model.init_args.base_ckpt"
        )
    wrong = [key for key, kind in TRAINING.items() if not isinstance(found.get(key), kind)]
    if resumed and wrong:
        raise LightningMMError(
            f"{start} holds no state of a training to resume ({', '.join(wrong)} missing, as with save_weights_only); "
            "start from its weights with --model.init_args.base_ckpt"
        )


def _some(found: dict[str, Any]) -> str:
    names = [str(key) for key in found]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "nothing"


def check_places(trainer: Trainer) -> None:
    """Refuse to train for a checkpoint that could not be written, and remove halves that a killed run has left.

    Raises:
        LightningMMError: If a folder has the name of a checkpoint, or their folder cannot be written to.
    """
    for callback in trainer.checkpoint_callbacks:
        folder = getattr(callback, "dirpath", None)
        if isinstance(callback, BestModelCheckpoint):  # set when the fit begins
            folder = folder or trainer.default_root_dir
        if not isinstance(callback, ModelCheckpoint) or folder is None or _is_remote(folder):
            continue
        check_folder(folder)
        names = [callback.filename or "", callback.CHECKPOINT_NAME_LAST if callback.save_last else ""]
        for path in (Path(folder) / f"{name}{callback.FILE_EXTENSION}" for name in names if name and "{" not in name):
            # With its version counter on, Lightning takes another name.
            if path.is_dir() and not getattr(callback, "_enable_version_counter", False):
                raise LightningMMError(
                    f"cannot write the checkpoint {path}: it is a folder; remove or rename it, or give the "
                    "ModelCheckpoint another filename or dirpath"
                )
        if trainer.is_global_zero:
            remove_leftovers(folder)


def _is_remote(path: object) -> bool:
    return "://" in str(path)
