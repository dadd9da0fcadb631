"""Multimodal networks that keep working when modalities are missing."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from lightning_mm.moved import MovedModules
from lightning_mm.version import __version__

if TYPE_CHECKING:
    from lightning_mm.data import ModalityDropoutDataModule
    from lightning_mm.modalities import Modalities

__all__ = ["Modalities", "ModalityDropoutDataModule", "__version__"]


# Torch and Lightning take seconds to import: only those who use them wait, and `lightning-mm --help` is there at once.
_HOMES = {"Modalities": "lightning_mm.modalities", "ModalityDropoutDataModule": "lightning_mm.data"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.meta_path.append(MovedModules())
