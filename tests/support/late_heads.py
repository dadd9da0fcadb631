"""Small tasks of two modalities with auxiliary heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm import Modalities
from lightning_mm.models import ImageEncoder, LateFusionClassifier
from lightning_mm.tasks import BaseTask, ClassificationTask, SemanticSegmentationTask

NAMES = Modalities(["audio", "video"])


class Pixels(nn.Module):
    """Convolutions as encoders, one map each, at half the size of the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Conv2d(2, 5, 2, 2) for name in NAMES})
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        maps = torch.stack([self.encoders[name](inputs[name]) for name in NAMES]).sum(0)
        return F.interpolate(self.head(maps), scale_factor=2)


def build(dense: bool, **settings: Any) -> BaseTask:
    torch.manual_seed(0)
    settings = {"auxiliary_weight": 0.5, **settings}
    if dense:
        return SemanticSegmentationTask(Pixels(), list(NAMES), 3, **settings).eval()
    encoders: dict[str, nn.Module] = {name: ImageEncoder(2, width=4, out_channels=6, depth=2) for name in NAMES}
    return ClassificationTask(LateFusionClassifier(encoders, 3, mask_absent=False), list(NAMES), 3, **settings).eval()


def inputs(size: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(size, 2, 8, 8, generator=generator) for name in NAMES}
