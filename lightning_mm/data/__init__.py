"""The data module and the data sets."""

from lightning_mm.data.datasets.scenes import Scenes

__all__ = ["Scenes"]
