"""Mechanisms: what it depends on whether a modality is missing."""
