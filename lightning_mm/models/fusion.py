"""Fusion of the features of several encoders, maps or vectors, when some modalities are absent.

A fusion takes ``available``; absent features never enter, neither in value nor in gradient (NaN included), and
its widths do not depend on what is missing, so one set of weights serves every combination.

Shapes: B samples, M modalities, C channels, H x W pixels of one scale (vectors have none: read ``[B, C, H, W]`` as
``[B, C]``); ``available`` is ``Bool[B, M]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError


class Fusion(nn.Module):
    """Base of all fusions: masks and projects the features, then leaves the combining to :meth:`fuse`.

    Args:
        widths: Channels of each encoder at this scale, in the order of the modalities. Narrower encoders are brought to
            the widest by a 1x1 convolution without bias (so that absent stays exactly zero); an encoder of width 0 has
            nothing at this scale (the stride-2 scale of MiT) and is left out.
        spatial: True for feature maps, False for vectors, which have linear layers instead of 1x1 convolutions.

    Shape:
        ``M x [B, C_m, H, W]`` and ``Bool[B, M]`` -> ``[B, max(C_m), H, W]``, or all without H and W.
    """

    def __init__(self, widths: Sequence[int], spatial: bool = True) -> None:
        super().__init__()
        if not widths or min(widths) < 0:
            raise LightningMMError(f"fusion widths must be one channel count >= 0 per encoder, got {list(widths)}")
        self.widths = tuple(widths)
        self.spatial = spatial
        self.out_channels = max(self.widths)
        self.positions = tuple(position for position, width in enumerate(self.widths) if width > 0)
        self.projections = nn.ModuleList(
            nn.Identity()
            if self.widths[position] == self.out_channels
            else self.pointwise(self.widths[position], self.out_channels, bias=False)
            for position in self.positions
        )

    def pointwise(self, in_channels: int, out_channels: int, bias: bool = True) -> nn.Conv2d | nn.Linear:
        """A layer over the channels of each pixel, or of each vector."""
        if self.spatial:
            return nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)
        return nn.Linear(in_channels, out_channels, bias=bias)

    def forward(self, features: Sequence[Tensor], available: Tensor | None = None) -> Tensor:
        """Fuse one feature per modality; ``available=None`` means that all are available."""
        if len(features) != len(self.widths):
            kind = "feature maps" if self.spatial else "vectors"
            raise LightningMMError(f"fusion of {len(self.widths)} modalities got {len(features)} {kind}")
        if not self.positions:
            return features[0]
        if available is None:
            # The same arithmetic as with a mask of ones: a complete batch gives the same bits either way.
            available = torch.ones(features[0].shape[0], len(self.widths), dtype=torch.bool, device=features[0].device)
        one = (1, 1, 1) if self.spatial else (1,)
        present = [available[:, position].view(-1, *one) for position in self.positions]
        # torch.where and not a product: 0 * NaN is NaN.
        masked = [
            projection(torch.where(flag, features[position], 0.0))
            for projection, position, flag in zip(self.projections, self.positions, present)
        ]
        return self.fuse(masked, present)

    def fuse(self, features: list[Tensor], present: list[Tensor]) -> Tensor:
        """Combine features of equal width, zero where absent.

        Shape:
            ``[B, C, H, W]`` and ``Bool[B, 1, 1, 1]`` per encoder -> ``[B, C, H, W]``; zero for a row without any.
        """
        raise NotImplementedError


class MeanFusion(Fusion):
    """Mean over the modalities that are available; has no parameters if all encoders are equally wide."""

    def fuse(self, features: list[Tensor], present: list[Tensor]) -> Tensor:
        count = reduce(torch.add, [flag.to(features[0].dtype) for flag in present])
        return reduce(torch.add, features) / count.clamp(min=1)


class MaxFusion(Fusion):
    """Elementwise maximum over the modalities that are available."""

    def fuse(self, features: list[Tensor], present: list[Tensor]) -> Tensor:
        candidates = [torch.where(flag, feature, -torch.inf) for feature, flag in zip(features, present)]
        return torch.where(reduce(torch.logical_or, present), reduce(torch.maximum, candidates), 0.0)


class ConcatFusion(Fusion):
    """Concatenation, zeros where absent, and a 1x1 convolution back to the common width.

    It starts as the plain mean (a block of identity / M per encoder), so that untrained layers do not mix at random.
    """

    def __init__(self, widths: Sequence[int], spatial: bool = True) -> None:
        super().__init__(widths, spatial)
        if self.positions:
            self.mix = self.pointwise(self.out_channels * len(self.positions), self.out_channels)
            block = torch.eye(self.out_channels) / len(self.positions)
            with torch.no_grad():
                self.mix.weight.copy_(block.repeat(1, len(self.positions)).view_as(self.mix.weight))
            nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def fuse(self, features: list[Tensor], present: list[Tensor]) -> Tensor:
        mixed: Tensor = self.mix(torch.cat(features, dim=1))
        return mixed


class AttentionFusion(Fusion):
    """Weighted mean with one weight per modality and pixel: a softmax over scores of the available modalities.

    Each score is a 1x1 convolution of the modality's own feature, zero at the start, where the fusion is the mean.
    """

    def __init__(self, widths: Sequence[int], spatial: bool = True) -> None:
        super().__init__(widths, spatial)
        self.scores = nn.ModuleList(self.pointwise(self.out_channels, 1) for _ in self.positions)
        for parameter in self.scores.parameters():
            nn.init.zeros_(parameter)

    def fuse(self, features: list[Tensor], present: list[Tensor]) -> Tensor:
        scores = torch.cat([score(feature) for score, feature in zip(self.scores, features)], dim=1).float()
        # The lowest finite number: its weight is exactly zero next to any score, and a row without any is not NaN.
        scores = scores.masked_fill(~torch.cat(present, dim=1), torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=1).to(features[0].dtype)
        return reduce(torch.add, [weights[:, i : i + 1] * feature for i, feature in enumerate(features)])


FusionName = Literal["mean", "max", "concat", "attention"]
_FUSIONS: dict[str, type[Fusion]] = {
    "mean": MeanFusion,
    "max": MaxFusion,
    "concat": ConcatFusion,
    "attention": AttentionFusion,
}


def build_fusion(fusion: str | type[Fusion], widths: Sequence[int], spatial: bool = True) -> Fusion:
    """A fusion by its short name or class, see :class:`Fusion`; an unknown name is a LightningMMError."""
    if isinstance(fusion, str):
        if fusion not in _FUSIONS:
            raise LightningMMError(f"fusion must be one of {list(_FUSIONS)} or a subclass of Fusion, got {fusion!r}")
        fusion = _FUSIONS[fusion]
    # a subclass that fuses maps only need not take `spatial`
    return fusion(widths) if spatial else fusion(widths, spatial=False)
