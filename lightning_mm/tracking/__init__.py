"""Weights & Biases: a logger that is offline unless logged in, and sweeps as tables, scalars and pictures."""

from lightning_mm.tracking.logger import OfflineFirstWandbLogger
from lightning_mm.tracking.sweep import log_sweep, sweep_scalars

__all__ = ["OfflineFirstWandbLogger", "log_sweep", "sweep_scalars"]
