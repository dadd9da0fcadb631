"""A U-Net for images and volumes with one encoder per modality.

Shapes: B samples, C_m channels of modality m, K classes, D_i features of scale i; ``*size`` is height and width of
images, or depth, height and width of volumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError, check_choice
from lightning_mm.modalities import Modalities
from lightning_mm.models.inputs import check_available, check_inputs, check_positive, parts_of_modalities
from lightning_mm.models.universal.class_head import ClassHead

_LAYERS: dict[int, tuple[Any, str]] = {2: (nn.Conv2d, "bilinear"), 3: (nn.Conv3d, "trilinear")}


class ConvEncoder(nn.Module):
    """Two convolutions at every scale, each scale half the size of the one before.

    Args:
        in_channels: Channels of the input.
        widths: Features of every scale, the resolution of the input first.
        dims: 2 for images, 3 for volumes.

    Attributes:
        out_channels: ``widths``, as heads and fusions ask for it.

    Shape:
        ``[B, C, *size]`` -> a list of ``[B, D_i, *size / 2 ** i]``.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], dims: Literal[2, 3] = 2) -> None:
        super().__init__()
        self.out_channels = list(widths)
        before = [in_channels, *widths[:-1]]
        self.scales = nn.ModuleList(
            nn.Sequential(_block(came, width, dims, 1 if level == 0 else 2), _block(width, width, dims))
            for level, (came, width) in enumerate(zip(before, widths))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        for scale in self.scales:
            image = scale(image)
            features.append(image)
        return features


class MultiEncoderUNet(nn.Module):
    """Encoders of the modalities, a 1x1 convolution on their features at every scale, a decoder, a head for each class.

    Norms are those of single samples, so a batch changes no output, and over all features together (group norm with one
    group): one for each feature would keep a reconstruction from being brighter for one sample than for another. The
    network ignores which modalities
    are available and sees what stands in for absent ones, like the networks of arXiv 2310.03986.

    Args:
        channels: Modality to its number of input channels; the order is the column order of ``available``.
        num_classes: Number of classes K.
        dims: 2 for images, 3 for volumes.
        widths: Features of every scale, the resolution of the input first; sizes must be divisible by
            ``2 ** (len(widths) - 1)``.
        head_width: Features C that the head of a class reads, see
            :class:`~lightning_mm.models.universal.class_head.ClassHead`.

    Shape:
        ``{modality: [B, C_m, *size]}`` and ``Bool[B, M]`` -> logits ``[B, K, *size]``.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> network = MultiEncoderUNet({"flair": 1, "t2": 1}, num_classes=2, dims=3, widths=[4, 8])
        >>> network({"flair": torch.zeros(1, 1, 8, 8, 8), "t2": torch.zeros(1, 1, 8, 8, 8)}).shape
        torch.Size([1, 2, 8, 8, 8])
    """

    mask_absent = False
    """Features of absent modalities enter, as those of the fill; fills of features ask for it."""

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        dims: Literal[2, 3] = 2,
        widths: Sequence[int] = (8, 16, 32, 64),
        head_width: int = 8,
    ) -> None:
        super().__init__()
        check_choice("dims", dims, (2, 3))
        check_positive(
            num_classes=num_classes, head_width=head_width, **{f"channels of {m}": n for m, n in channels.items()}
        )
        if len(widths) < 2 or min(widths) < 1:
            raise LightningMMError(f"widths: expected two or more positive numbers, one a scale, got {list(widths)}")
        self.modalities = Modalities(channels)
        self.channels, self.num_classes, self.dims, self.widths = dict(channels), num_classes, dims, list(widths)
        self.stride = 2 ** (len(widths) - 1)
        self.encoders = parts_of_modalities({m: ConvEncoder(n, widths, dims) for m, n in channels.items()})
        conv = _LAYERS[dims][0]
        self.fusion = nn.ModuleList(conv(len(channels) * width, width, 1) for width in widths)
        self.decoder = nn.ModuleList(_block(above + below, above, dims) for above, below in pairwise(widths))
        self.narrow = _block(widths[0], head_width, dims, kernel=1)
        self.head = ClassHead(head_width, num_classes)

    def forward(
        self, inputs: Mapping[str, Tensor], available: Tensor | None = None
    ) -> Float[Tensor, "batch {self.num_classes} *size"]:
        """Logits of every pixel or voxel; ``available`` has no effect."""
        self.check(inputs, available)
        features, _ = self.decode(inputs)
        logits: Tensor = self.head(self.narrow(features))
        return logits

    def decode(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The features ``[B, D_0, *size]`` of the decoder, and the fused ones of the coarsest scale."""
        scales = [cast("list[Tensor]", encoder(inputs[name])) for name, encoder in self.encoders.items()]
        fused = [fusion(torch.cat(features, dim=1)) for fusion, *features in zip(self.fusion, *scales)]
        below = fused[-1]
        for block, skip in zip(reversed(self.decoder), reversed(fused[:-1])):
            # sizes are known to fit, so a factor exports better than a size
            below = F.interpolate(below, scale_factor=2.0, mode=_LAYERS[self.dims][1], align_corners=False)
            below = block(torch.cat([skip, below], dim=1))
        return below, fused[-1]

    def check(self, inputs: Mapping[str, Tensor], available: Tensor | None) -> None:
        """Raise a LightningMMError unless inputs are images or volumes of one size, and the mask fits them."""
        check_inputs(inputs, list(self.channels))
        first = self.modalities[0]
        grid = tuple(inputs[first].shape)
        axes = "depth, height, width" if self.dims == 3 else "height, width"
        for name, count in self.channels.items():
            shape = tuple(inputs[name].shape)
            if len(shape) != self.dims + 2 or shape[1] != count:
                raise LightningMMError(
                    f"modality {name!r}: expected [batch, {count}, {axes}] ({count} channels), got {shape}; set "
                    "channels and dims of the network to those of the data"
                )
            if shape[0] != grid[0] or shape[2:] != grid[2:]:
                raise LightningMMError(
                    f"modality {name!r}: expected the batch and size of {first!r} {grid}, got {shape}; all modalities "
                    "must be on one grid"
                )
        if any(side % self.stride for side in grid[2:]):
            raise LightningMMError(
                f"{axes} must be divisible by {self.stride} (2 ** (number of widths - 1)), got {grid[2:]}; pad, or use "
                "fewer widths"
            )
        check_available(available, self.modalities, grid[0])


def _block(came: int, width: int, dims: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    conv = _LAYERS[dims][0]
    return nn.Sequential(conv(came, width, kernel, stride, kernel // 2), nn.GroupNorm(1, width), nn.ReLU(inplace=True))
