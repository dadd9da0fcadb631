"""Lightning callbacks."""

from lightning_mm.callbacks.epoch_seed import EpochSeed
from lightning_mm.callbacks.frozen_backbone_adapter import FrozenBackboneAdapter

__all__ = ["EpochSeed", "FrozenBackboneAdapter"]
