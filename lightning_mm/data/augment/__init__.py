"""Augmentation, keyed by seed, sample and epoch."""
