"""Lightning callbacks."""

from lightning_mm.callbacks.keyed_seed import KeyedSeed
from lightning_mm.callbacks.frozen_backbone_adapter import FrozenBackboneAdapter

__all__ = ["KeyedSeed", "FrozenBackboneAdapter"]
