"""Texts and clips in one space of embeddings per expert."""

from lightning_mm.models.text_clip.network import EmbeddingExperts

__all__ = ["EmbeddingExperts"]
