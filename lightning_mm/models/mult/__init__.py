"""MulT, the multimodal transformer: its encoders, the network, and its released weights."""

from lightning_mm.models.mult.network import MulT

__all__ = ["MulT"]
