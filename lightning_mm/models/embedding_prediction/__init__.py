"""Prediction of absent embeddings from frozen unimodal encoders (arXiv 2407.12616, own reconstruction)."""

from lightning_mm.models.embedding_prediction.network import EmbeddingPrediction, Embeddings
from lightning_mm.models.embedding_prediction.predictors import EmbeddingPredictor
from lightning_mm.models.embedding_prediction.read_only import ReadOnlyPrompts, ReadOnlyQueries

__all__ = ["EmbeddingPrediction", "EmbeddingPredictor", "Embeddings", "ReadOnlyPrompts", "ReadOnlyQueries"]
