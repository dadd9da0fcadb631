"""Metrics of the tasks, in the conventions of the field."""

from lightning_mm.tasks.metrics.retrieval import expert_similarity, retrieval_metrics

__all__ = ["expert_similarity", "retrieval_metrics"]
