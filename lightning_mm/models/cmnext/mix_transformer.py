"""The Mix Transformer (MiT): the encoder of SegFormer, stage by stage.

Shapes: B samples, C channels, H x W positions, N = H * W tokens.

Reference: Xie et al., "SegFormer", NeurIPS 2021, arXiv 2105.15203, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = (1, 2, 5, 8)
"""Attention heads of each stage, for all sizes."""

REDUCTIONS = (8, 4, 2, 1)
"""How many times coarser keys and values are than queries, per side, in each stage."""


@dataclass(frozen=True)
class Size:
    """Widths and depths of the four stages."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


SIZES = {
    "B0": Size((32, 64, 160, 256), (2, 2, 2, 2)),
    "B1": Size((64, 128, 320, 512), (2, 2, 2, 2)),
    "B2": Size((64, 128, 320, 512), (3, 4, 6, 3)),
    "B3": Size((64, 128, 320, 512), (3, 4, 18, 3)),
    "B4": Size((64, 128, 320, 512), (3, 8, 27, 3)),
    "B5": Size((64, 128, 320, 512), (3, 6, 40, 3)),
}


def to_tokens(features: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch token channel"]:
    """Turn a feature map into one token per position, row by row."""
    return features.flatten(2).transpose(1, 2)


def to_map(
    tokens: Float[Tensor, "batch token channel"], height: int, width: int
) -> Float[Tensor, "batch channel {height} {width}"]:
    """Turn tokens back into a map, the inverse of :func:`to_tokens`."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


class DropPath(nn.Module):
    """Drops a residual branch for some samples in training, and scales it up for the others.

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Float[Tensor, " batch *rest"]) -> Float[Tensor, " batch *rest"]:
        if not self.training or self.rate == 0:
            return branch
        keep = torch.empty((branch.shape[0], *[1] * (branch.ndim - 1)), dtype=branch.dtype, device=branch.device)
        return branch * keep.bernoulli_(1 - self.rate) / (1 - self.rate)


class PatchEmbedding(nn.Module):
    """Overlapping patches by a strided convolution, normalised: ``[B, C, H, W]`` -> ``[B, N, D]``, height, width."""

    def __init__(self, in_channels: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch token out"], int, int]:
        projected = self.projection(features)
        return self.norm(to_tokens(projected)), projected.shape[2], projected.shape[3]


class EfficientSelfAttention(nn.Module):
    """Self-attention with keys and values from a coarser map: ``[B, N, C]`` -> the same."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.reduction = nn.Conv2d(width, width, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(
        self, tokens: Float[Tensor, "batch token channel"], height: int, width: int
    ) -> Float[Tensor, "batch token channel"]:
        source = tokens
        if self.reduction is not None and self.norm is not None:
            source = self.norm(to_tokens(self.reduction(to_map(tokens, height, width))))
        query = self.query(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(source).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out


class MixFeedForward(nn.Module):
    """A perceptron with a depth-wise convolution inside, which gives tokens their position: ``[B, N, C]``."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        hidden = width * ratio
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(
        self, tokens: Float[Tensor, "batch token channel"], height: int, width: int
    ) -> Float[Tensor, "batch token channel"]:
        hidden = to_tokens(self.mix(to_map(self.expand(tokens), height, width)))
        out: Tensor = self.contract(F.gelu(hidden))
        return out


class MixTransformerBlock(nn.Module):
    """Attention and feed-forward, each after a norm and with a shortcut: ``[B, N, C]``."""

    def __init__(self, width: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = EfficientSelfAttention(width, heads, reduction)
        self.feed_forward = MixFeedForward(width, ratio=4)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, tokens: Float[Tensor, "batch token channel"], height: int, width: int
    ) -> Float[Tensor, "batch token channel"]:
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens), height, width))
        return tokens + self.drop_path(self.feed_forward(self.norm2(tokens), height, width))


class MixTransformerStage(nn.Module):
    """One scale of the encoder: the next coarser map.

    Args:
        stage: 0 to 3; the first takes images and makes the map four times coarser, the others twice.
        size: Of all stages.
        drop_path: One rate per block.

    Shape:
        ``[B, C, H, W]`` -> ``[B, D, H', W']``.
    """

    def __init__(self, stage: int, size: Size, drop_path: Sequence[float]) -> None:
        super().__init__()
        width, kernel, stride = size.widths[stage], *patch_of(stage)
        self.embedding = PatchEmbedding(3 if stage == 0 else size.widths[stage - 1], width, kernel, stride)
        self.blocks = nn.ModuleList(
            MixTransformerBlock(width, HEADS[stage], REDUCTIONS[stage], rate) for rate in drop_path
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, features: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch out new_height new_width"]:
        tokens, height, width = self.embedding(features)
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return to_map(self.norm(tokens), height, width)


def patch_of(stage: int) -> tuple[int, int]:
    """Return kernel and stride of the patches of a stage."""
    return (7, 4) if stage == 0 else (3, 2)


def drop_path_rates(highest: float, depths: Sequence[int]) -> list[list[float]]:
    """Compute a rate for each block of each stage, rising from 0 to the highest with depth.

    Example:
        >>> drop_path_rates(0.3, [2, 2])
        [[0.0, 0.1], [0.2, 0.3]]
    """
    blocks = sum(depths)
    rates = [round(highest * block / max(blocks - 1, 1), 9) for block in range(blocks)]
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [rates[start : start + depth] for start, depth in zip(starts, depths)]


def initialise(network: nn.Module) -> None:
    """Initialise as SegFormer: truncated normal linear layers, convolutions by fan-out, biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
