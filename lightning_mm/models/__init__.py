"""Networks: pure torch, know no Lightning and no adapters."""

from lightning_mm.models.fusion import AttentionFusion, ConcatFusion, Fusion, MaxFusion, MeanFusion
from lightning_mm.models.segmenter import MultiEncoderSegmenter

__all__ = ["AttentionFusion", "ConcatFusion", "Fusion", "MaxFusion", "MeanFusion", "MultiEncoderSegmenter"]
