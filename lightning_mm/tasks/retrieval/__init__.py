"""Retrieval between texts and clips."""
