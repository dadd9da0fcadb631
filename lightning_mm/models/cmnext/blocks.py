"""The branch of CMNeXt that all modalities but the first share: embedding, selection, multi-scale pooling.

Shapes: B samples, C channels, H x W positions.

Reference: Zhang et al., "Delivering Arbitrary-Modal Semantic Segmentation", CVPR 2023, arXiv 2303.01480, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.models.cmnext.mix_transformer import DropPath, Size, patch_of
from lightning_mm.models.inputs import parts_of_modalities

POOLS = (3, 7, 11)
"""Sides of the windows of the pools of attention."""

RATIOS = (8, 8, 4, 4)
"""How much wider the feed-forward of each stage is inside."""

EPSILON = 1e-6
"""Of the layer norms of this branch; torch's default is ten times larger."""

LAYER_SCALE = 1e-2
"""At the start."""

Features = Mapping[str, Tensor]
"""Modality to its feature map."""


def normalise(
    norm: nn.Module, features: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "batch channel height width"]:
    """Apply a layer norm over the channels of a map."""
    normalised: Tensor = norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return normalised


class SharedPatchEmbedding(nn.Module):
    """Overlapping patches by one convolution for all modalities, and a layer norm for each."""

    def __init__(self, modalities: Sequence[str], in_channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2)
        self.norms = parts_of_modalities({name: nn.LayerNorm(width, eps=EPSILON) for name in modalities})

    def forward(self, features: Features) -> dict[str, Tensor]:
        return {name: normalise(norm, self.projection(features[name])) for name, norm in self.norms.items()}


class Selection(nn.Module):
    """Scores every modality at each position, and selects channel by channel.

    Shape:
        ``{modality: [B, C, H, W]}`` -> the scored features, and their element-wise maximum ``[B, C, H, W]``.
    """

    def __init__(self, modalities: Sequence[str], width: int) -> None:
        super().__init__()
        self.scores = parts_of_modalities(
            {
                name: nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, 1, 1))
                for name in modalities
            }
        )

    def forward(self, features: Features) -> tuple[dict[str, Tensor], Float[Tensor, "batch channel height width"]]:
        scored = {
            name: torch.sigmoid(score(features[name])) * features[name] + features[name]
            for name, score in self.scores.items()
        }
        return scored, reduce(torch.maximum, scored.values())


class MultiScalePoolAttention(nn.Module):
    """A gate on every entry, made of averages over windows of several sizes: ``[B, C, H, W]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.gate = nn.Conv2d(width, width, 1)

    def forward(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        spread = self.spread(features)
        pooled = spread + sum(pool(spread, side) for side in POOLS)
        return torch.sigmoid(self.gate(pooled)) * features + features


def pool(
    features: Float[Tensor, "batch channel height width"], side: int
) -> Float[Tensor, "batch channel height width"]:
    """Average over a square window, without positions outside of the map."""
    return F.avg_pool2d(features, side, stride=1, padding=side // 2, count_include_pad=False)


class ConvolutionalFeedForward(nn.Module):
    """The feed-forward of MiT on maps: ``[B, C, H, W]``."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        hidden = width * ratio
        self.expand, self.contract = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        out: Tensor = self.contract(F.gelu(self.mix(self.expand(features))))
        return out


class MSPABlock(nn.Module):
    """Multi-scale pooling attention, then a feed-forward with a shortcut weighed by channel: ``[B, C, H, W]``."""

    def __init__(self, width: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.attention = MultiScalePoolAttention(width)
        self.feed_forward = ConvolutionalFeedForward(width, ratio)
        self.channel_mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), LAYER_SCALE)) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        features = features + self.drop_path(_per_channel(self.scale1) * self.attention(self.norm1(features)))
        # Neighbouring channels mix: the mean of each is one step of a sequence.
        weights = torch.sigmoid(self.channel_mix(features.mean((2, 3)).unsqueeze(1)))
        shortcut = weights.squeeze(1)[:, :, None, None] * features
        return shortcut + self.drop_path(_per_channel(self.scale2) * self.feed_forward(self.norm2(features)))


class AuxiliaryStage(nn.Module):
    """One scale of the shared branch.

    Args:
        modalities: All but the first; of two or more, the strongest features are selected.
        stage: 0 to 3.
        size: Of all stages.
        drop_path: One rate per block.

    Shape:
        ``{modality: [B, C, H, W]}`` -> the features kept of each modality ``{modality: [B, D, H', W']}``, and those
        of all together ``[B, D, H', W']``.
    """

    def __init__(self, modalities: Sequence[str], stage: int, size: Size, drop_path: Sequence[float]) -> None:
        super().__init__()
        width, kernel, stride = size.widths[stage], *patch_of(stage)
        before = 3 if stage == 0 else size.widths[stage - 1]
        self.embedding = SharedPatchEmbedding(modalities, before, width, kernel, stride)
        self.selection = Selection(modalities, width) if len(modalities) > 1 else None
        self.blocks = nn.Sequential(*(MSPABlock(width, RATIOS[stage], rate) for rate in drop_path))
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, features: Features) -> tuple[dict[str, Tensor], Float[Tensor, "batch channel height width"]]:
        kept = self.embedding(features)
        if self.selection is None:
            (selected,) = kept.values()
        else:
            kept, selected = self.selection(kept)
        return kept, normalise(self.norm, self.blocks(selected))


def _per_channel(scale: Float[Tensor, " channel"]) -> Float[Tensor, "channel 1 1"]:
    return scale[:, None, None]
