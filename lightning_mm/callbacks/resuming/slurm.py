"""Switches Lightning's own requeueing under Slurm off: it saves in a signal handler and takes files of other runs."""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector


def leave_requeueing_to_us(trainer: Trainer) -> None:
    """Let a trainer neither requeue its job nor resume a ``hpc_ckpt_*.ckpt`` that nobody has asked for.

    Under Slurm, Lightning 2.6 saves such a file into ``default_root_dir`` at SIGUSR1, and from then on every trainer
    with that folder loads it: that of another fit, and of a sweep.
    """
    environment: Any = getattr(getattr(trainer, "_accelerator_connector", None), "cluster_environment", None)
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False
    connector: Any = getattr(trainer, "_checkpoint_connector", None)
    if type(connector) is _CheckpointConnector:
        connector.__class__ = OnlyAsked


class OnlyAsked(_CheckpointConnector):
    """Finds checkpoints as Lightning does, but those of its own requeueing only when asked for with ``hpc``."""

    asked_for_hpc = False

    @property
    def _hpc_resume_path(self) -> Any:
        return super()._hpc_resume_path if self.asked_for_hpc else None

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, *args: Any, **settings: Any) -> Any:
        self.asked_for_hpc = ckpt_path == "hpc"
        return super()._parse_ckpt_path(state_fn, ckpt_path, *args, **settings)
