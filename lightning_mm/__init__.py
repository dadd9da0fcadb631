"""Multimodal networks that keep working when modalities are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_mm.modalities import Modalities
from lightning_mm.version import __version__

if TYPE_CHECKING:
    from lightning_mm.data import ModalityDropoutDataModule

__all__ = ["Modalities", "ModalityDropoutDataModule", "__version__"]


def __getattr__(name: str) -> object:
    # The data module needs Lightning, which takes seconds to import: only those who use it wait.
    if name == "ModalityDropoutDataModule":
        from lightning_mm.data import ModalityDropoutDataModule

        return ModalityDropoutDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
