"""Weights & Biases: a logger that is offline unless logged in, and the record of sweeps and studies."""

from lightning_mm.tracking.logger import OfflineFirstWandbLogger
from lightning_mm.tracking.sweep import log_fit, log_result, log_sweep, sweep_scalars

__all__ = ["OfflineFirstWandbLogger", "log_fit", "log_result", "log_sweep", "sweep_scalars"]
