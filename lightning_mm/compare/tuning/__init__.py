"""Searches for hyper-parameters over a grid or at random: trials, their table, the same as a W&B sweep."""

from lightning_mm.compare.tuning.look import look_at_trials
from lightning_mm.compare.tuning.outcome import Outcome, outcomes, write_outcomes
from lightning_mm.compare.tuning.parameters import Parameter
from lightning_mm.compare.tuning.tune import Trial, Tune, read_tune
from lightning_mm.compare.tuning.wandb_sweep import wandb_sweep

__all__ = [
    "Outcome", "Parameter", "Trial", "Tune", "look_at_trials", "outcomes", "read_tune", "wandb_sweep", "write_outcomes",
]  # fmt: skip
