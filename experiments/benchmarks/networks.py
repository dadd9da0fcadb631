"""The networks of the benchmarks.

Shapes: B samples, T tokens, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.models import LateFusionClassifier, MultiEncoderSegmenter

TOKENS = {"text": 13, "audio": 13, "video": 12, "depth": 12}
CHANNELS = {"rgb": 3, "depth": 1, "thermal": 1, "event": 2}
PROJECTIONS = ["query", "key", "value", "out", "fc1", "fc2"]
"""The linear layers of a block, which all get low-rank changes."""


class Block(nn.Module):
    """A pre-norm transformer block with separate layers for the projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        query, key, value = (
            layer(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TokenTransformer(nn.Module):
    """A transformer of 6 layers and width 256 over 50 tokens of four modalities (4.7 M parameters)."""

    def __init__(self, width: int = 256, layers: int = 6, heads: int = 4) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.head = nn.Linear(width, 10)

    def forward(self, text: Tensor, audio: Tensor, video: Tensor, depth: Tensor) -> Tensor:
        return self.head(self.blocks(torch.cat([text, audio, video, depth], 1)).mean(1))


def tokens(batch: int = 32, width: int = 256) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, count, width, generator=generator) for name, count in TOKENS.items()}


def segmenter() -> MultiEncoderSegmenter:
    return MultiEncoderSegmenter(CHANNELS, 4, "resnet18", encoder_depth=4, decoder_channels=[128, 64, 32, 16])


def images(batch: int = 15, size: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, width, size, size, generator=generator) for name, width in CHANNELS.items()}


class Trunk(nn.Module):
    """An image encoder that is expensive enough to be worth skipping."""

    in_channels, out_channels = 3, 128

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in ((3, width), (width, width), (width, self.out_channels))
            )
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.stages(image).mean((2, 3))


def two_encoders() -> LateFusionClassifier:
    return LateFusionClassifier({"rgb": Trunk(), "depth": Trunk()}, 10, mask_absent=False)


class Blocks(nn.Module):
    """A fusion of vectors by wide residual blocks: as expensive as its depth."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        wide = 32 * width
        blocks = (nn.Sequential(nn.Linear(width, wide), nn.ReLU(), nn.Linear(wide, width)) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: Sequence[Tensor], available: Tensor | None = None) -> Tensor:
        x = torch.stack(list(features)).sum(0)
        for block in self.blocks:
            x = x + block(F.normalize(x))
        return x


def four_encoders(names: Sequence[str], depth: int = 0) -> LateFusionClassifier:
    """Build a network of equal encoders; ``depth`` makes what comes after them more expensive."""
    network = LateFusionClassifier({name: Trunk() for name in names}, 10, fusion="mean", mask_absent=False)
    if depth:
        network.fusion = Blocks(Trunk.out_channels, depth)  # type: ignore[assignment]
    return network
