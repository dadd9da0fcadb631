"""MulT, the multimodal transformer: its attention, its encoders, the network, and the keys of the released code."""

from lightning_mm.models.mult.network import MulT

__all__ = ["MulT"]
