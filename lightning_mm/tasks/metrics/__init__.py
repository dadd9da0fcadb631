"""Metrics of the tasks, in the conventions of the field."""

from lightning_mm.tasks.metrics.regions import RegionDice, Regions, region_dice
from lightning_mm.tasks.metrics.retrieval import expert_similarity, retrieval_metrics

__all__ = ["RegionDice", "Regions", "expert_similarity", "region_dice", "retrieval_metrics"]
