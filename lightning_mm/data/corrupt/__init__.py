"""Corruptions: a modality is there, but damaged, at a severity from 1 to 5."""
