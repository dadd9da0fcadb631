"""ViLT: its inputs, the network, and its released weights."""

from lightning_mm.models.vilt.network import ViLT

__all__ = ["ViLT"]
