"""Lightning callbacks."""

from lightning_mm.callbacks.frozen_backbone_adapter import FrozenBackboneAdapter
from lightning_mm.callbacks.keyed_seed import KeyedSeed
from lightning_mm.callbacks.prediction_writer import PredictionWriter

__all__ = ["FrozenBackboneAdapter", "KeyedSeed", "PredictionWriter"]
