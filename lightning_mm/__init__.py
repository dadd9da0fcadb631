"""Multimodal networks that keep working when modalities are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_mm.modalities import Modalities

if TYPE_CHECKING:
    from lightning_mm.data import ModalityDropoutDataModule

__all__ = ["Modalities", "ModalityDropoutDataModule", "__version__"]

__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> object:
    # The data module needs Lightning, which takes seconds to import: only those who use it wait.
    if name == "ModalityDropoutDataModule":
        from lightning_mm.data import ModalityDropoutDataModule

        return ModalityDropoutDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
