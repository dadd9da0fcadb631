"""The head of SegFormer: all scales to one width, side by side, to class scores.

Shapes: B samples, C channels, H x W positions, K classes.

Reference: Xie et al., "SegFormer", NeurIPS 2021, arXiv 2105.15203, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.models.cmnext.mix_transformer import to_map, to_tokens


class SegFormerHead(nn.Module):
    """Logits at the size of the finest map.

    Args:
        widths: Channels of the maps, finest first.
        width: Of all of them inside.
        num_classes: K.
        dropout: Share of channels that are dropped before the classifier in training.

    Shape:
        ``[[B, C, H, W], [B, C', H / 2, W / 2], ...]`` -> ``[B, K, H, W]``.
    """

    def __init__(self, widths: Sequence[int], width: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(channels, width) for channels in widths)
        self.fuse, self.norm = nn.Conv2d(width * len(widths), width, 1, bias=False), nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(
        self, features: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> Float[Tensor, "batch {self.classifier.out_channels} height width"]:
        size = features[0].shape[2:]
        scales = []
        for projection, scale in zip(self.projections, features):
            projected = to_map(projection(to_tokens(scale)), scale.shape[2], scale.shape[3])
            scales.append(projected if scale is features[0] else F.interpolate(projected, size, mode="bilinear"))
        fused = F.relu(self.norm(self.fuse(torch.cat(scales[::-1], 1))))
        logits: Tensor = self.classifier(self.dropout(fused))
        return logits
