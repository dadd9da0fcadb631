"""Exported programs for every combination of modalities (``torch.export`` and ONNX), and a runtime that picks one."""

from lightning_mm.export.index import Index
from lightning_mm.export.runtime import Runtime
from lightning_mm.export.write import export_adapted, export_network, write_export

__all__ = ["Index", "Runtime", "export_adapted", "export_network", "write_export"]
