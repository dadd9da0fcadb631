"""Weights of a Mix Transformer under the names of their release."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_mm.models import CMNeXt


def mit(other: CMNeXt) -> dict[str, Tensor]:
    """Weights as released for ImageNet."""
    backbone = {key.removeprefix("backbone."): value for key, value in other.to_reference().items()}
    kept = ("patch_embed", "block", "norm")
    state = {key: value for key, value in backbone.items() if key.startswith(kept)}
    return {**state, "head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
