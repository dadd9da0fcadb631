"""CMNeXt: a strong branch for RGB, one branch that all other modalities share, and its released weights."""

from lightning_mm.models.cmnext.network import CMNeXt

__all__ = ["CMNeXt"]
