"""Lightning callbacks."""

from lightning_mm.callbacks.batch_norm_refit import BatchNormRefit, StatisticsStart
from lightning_mm.callbacks.frozen_backbone_adapter import FrozenBackboneAdapter
from lightning_mm.callbacks.keyed_seed import KeyedSeed
from lightning_mm.callbacks.placement import Placement
from lightning_mm.callbacks.prediction_writer import PredictionWriter
from lightning_mm.callbacks.resuming import ResumeCheckpoint
from lightning_mm.callbacks.resuming.best import BestModelCheckpoint
from lightning_mm.callbacks.train_only import TrainOnly
from lightning_mm.tasks.finite.check import FiniteCheck

__all__ = [
    "BatchNormRefit",
    "BestModelCheckpoint",
    "FiniteCheck",
    "FrozenBackboneAdapter",
    "KeyedSeed",
    "Placement",
    "PredictionWriter",
    "ResumeCheckpoint",
    "StatisticsStart",
    "TrainOnly",
]
