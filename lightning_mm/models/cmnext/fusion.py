"""How CMNeXt rectifies two streams by each other (FRM) and fuses them (FFM).

Shapes: B samples, C channels, H x W positions, N = H * W tokens.

Reference: Zhang et al., "CMX", IEEE T-ITS 2023, arXiv 2203.04838, sections III-B and III-C.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.models.cmnext.mix_transformer import to_map, to_tokens


class FeatureRectification(nn.Module):
    """Adds to each stream features of the other, gated by channel and by position (half of each).

    Shape:
        ``[B, C, H, W]`` twice -> the same.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channel_hidden, self.channel_gates = nn.Linear(4 * width, 4 * width), nn.Linear(4 * width, 2 * width)
        self.position_hidden, self.position_gates = nn.Conv2d(2 * width, width, 1), nn.Conv2d(width, 2, 1)

    def forward(
        self, main: Float[Tensor, "batch channel height width"], other: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch channel height width"], Float[Tensor, "batch channel height width"]]:
        both = torch.cat([main, other], 1)
        pooled = torch.cat([both.mean((2, 3)), both.amax((2, 3))], 1)
        channels = torch.sigmoid(self.channel_gates(F.relu(self.channel_hidden(pooled))))
        positions = torch.sigmoid(self.position_gates(F.relu(self.position_hidden(both))))
        # [B, 2, C, H, W]: the share of the main stream that goes into the other, and the reverse.
        gates = 0.5 * (channels.unflatten(1, (2, -1, 1, 1)) + positions.unsqueeze(2))
        return main + gates[:, 1] * other, other + gates[:, 0] * main


class FeatureFusion(nn.Module):
    """Fuses two streams to one map: they exchange their global contexts, then channels are mixed.

    Shape:
        ``[B, C, H, W]`` twice -> ``[B, C, H, W]``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.main, self.other = ContextExchange(width, heads), ContextExchange(width, heads)
        self.mix = ChannelMix(width)

    def forward(
        self, main: Float[Tensor, "batch channel height width"], other: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        height, width = main.shape[2:]
        tokens = {"main": to_tokens(main), "other": to_tokens(other)}
        own_main, asking_main = self.main.split(tokens["main"])
        own_other, asking_other = self.other.split(tokens["other"])
        context_main, context_other = self.main.context(asking_main), self.other.context(asking_other)
        out_main = self.main(tokens["main"], own_main, asking_main, context_other)
        out_other = self.other(tokens["other"], own_other, asking_other, context_main)
        mixed: Tensor = self.mix(to_map(torch.cat([out_main, out_other], 2), height, width))
        return mixed


class ContextExchange(nn.Module):
    """One stream's side of linear cross-attention: its queries, and the context that it gives to the other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.key_value = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width, bias=False)
        self.output, self.norm = nn.Linear(2 * width, width), nn.LayerNorm(width)

    def split(
        self, tokens: Float[Tensor, "batch token channel"]
    ) -> tuple[Float[Tensor, "batch token channel"], Float[Tensor, "batch token channel"]]:
        """Split into what the stream keeps and its queries (there is no query projection)."""
        own, asking = F.relu(self.project(tokens)).chunk(2, dim=2)
        return own, asking

    def context(self, asking: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch head width width"]:
        """Compute the sum of key times value over all positions, normalised over the channels of the keys."""
        key, value = self.key_value(asking).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return (key.transpose(2, 3) @ value * value.shape[3] ** -0.5).softmax(2)

    def forward(
        self,
        tokens: Float[Tensor, "batch token channel"],
        own: Float[Tensor, "batch token channel"],
        asking: Float[Tensor, "batch token channel"],
        context: Float[Tensor, "batch head width width"],
    ) -> Float[Tensor, "batch token channel"]:
        """Add to the stream's tokens what the other's context answers."""
        answer = asking.unflatten(2, (self.heads, -1)).transpose(1, 2) @ context
        out: Tensor = self.norm(tokens + self.output(torch.cat([own, answer.transpose(1, 2).flatten(2)], 2)))
        return out


class ChannelMix(nn.Module):
    """Both streams side by side to the width of one: ``[B, 2 C, H, W]`` -> ``[B, C, H, W]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(2 * width, width, 1, bias=False)
        self.reduce, self.expand = nn.Conv2d(2 * width, width, 1), nn.Conv2d(width, width, 1)
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm_mixed, self.norm = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, both: Float[Tensor, "batch both height width"]) -> Float[Tensor, "batch channel height width"]:
        mixed = self.norm_mixed(self.expand(F.relu(self.spread(self.reduce(both)))))
        out: Tensor = self.norm(self.shortcut(both) + mixed)
        return out
