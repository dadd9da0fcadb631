"""LightningModules: what is trained and measured on the batches of the data module."""

from lightning_mm.tasks.base import BaseTask
from lightning_mm.tasks.segmentation import SemanticSegmentationTask

__all__ = ["BaseTask", "SemanticSegmentationTask"]
