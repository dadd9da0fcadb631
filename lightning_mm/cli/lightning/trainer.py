"""The trainer of the command line."""

from __future__ import annotations

from lightning.pytorch import Trainer

from lightning_mm.cli.check import check_task
from lightning_mm.cli.lightning.export import export_task
from lightning_mm.cli.lightning.fills import write_feature_file, write_mean_input
from lightning_mm.cli.lightning.preflight import look_at_task
from lightning_mm.cli.lightning.sweep import sweep_task


class SweepingTrainer(Trainer):
    """A trainer with more verbs."""

    # LightningCLI makes their options of their signatures and docstrings.
    sweep = sweep_task
    export = export_task
    check = check_task
    mean_input = write_mean_input
    features = write_feature_file
    look = look_at_task
