"""Lightning callbacks."""

from lightning_mm.callbacks.frozen_backbone_adapter import FrozenBackboneAdapter
from lightning_mm.callbacks.keyed_seed import KeyedSeed

__all__ = ["FrozenBackboneAdapter", "KeyedSeed"]
