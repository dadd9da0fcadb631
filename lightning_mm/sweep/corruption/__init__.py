"""Sweeps of damaged modalities."""
