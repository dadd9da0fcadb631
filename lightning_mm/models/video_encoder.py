"""The video networks of torchvision as encoders of one vector per clip.

Shapes: B clips, T frames, H x W pixels, D features.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import get_model, list_models, video  # type: ignore[import-untyped]  # ships no types

from lightning_mm.errors import LightningMMError
from lightning_mm.models.inputs import check_floating

CLIP = 5
"""Dimensions of a batch of clips."""
_CLASSIFIERS = ("fc", "classifier", "head")
# Frames, height and width: those of mvit are fixed by its table of positions, those of s3d are the smallest that its
# pooling takes.
_EXACTLY = {"mvit_v1_b": (16, 224, 224), "mvit_v2_s": (16, 224, 224)}
_AT_LEAST = {"s3d": (13, 209, 209)}


def video_networks() -> list[str]:
    """List the names of torchvision's video networks."""
    return list_models(module=video)


class VideoEncoder(nn.Module):
    """A video network of torchvision without its classifier: clips to the pooled features before it.

    Args:
        network: Its name: ``r3d_18``, ``mc3_18``, ``r2plus1d_18``, ``s3d`` (clips of at least 13 x 209 x 209),
            ``mvit_v1_b``, ``mvit_v2_s`` (exactly 16 x 224 x 224), ``swin3d_t``, ``swin3d_s``, ``swin3d_b``.
        weights: Name of torchvision's weights such as ``KINETICS400_V1`` or ``DEFAULT``, downloaded on first use;
            ``None`` starts at random.

    Shape:
        ``[B, 3, T, H, W] -> [B, D]``; D is ``out_channels``.

    Raises:
        LightningMMError: If there is no such network or no such weights; when called, if a clip has another shape or
            size than the network takes.

    Example:
        >>> import torch
        >>> encoder = VideoEncoder("mc3_18").eval()
        >>> encoder(torch.zeros(2, 3, 4, 16, 16)).shape, encoder.out_channels
        (torch.Size([2, 512]), 512)

    Reference:
        Tran et al.: A Closer Look at Spatiotemporal Convolutions, CVPR 2018; Xie et al.: Rethinking Spatiotemporal
        Feature Learning, ECCV 2018 (S3D); Li et al.: MViTv2, CVPR 2022; Liu et al.: Video Swin Transformer, CVPR 2022.
    """

    in_channels = 3

    def __init__(self, network: str, weights: str | None = None) -> None:
        super().__init__()
        if network not in video_networks():
            raise LightningMMError(f"no video network {network!r}; expected one of {video_networks()}")
        try:
            made: Any = get_model(network, weights=weights)
        except (KeyError, ValueError) as error:
            raise LightningMMError(
                f"video network {network!r} has no weights {weights!r} ({error}); expected one such as "
                "'KINETICS400_V1', see torchvision.models.get_model_weights, or null"
            ) from error
        name = next(name for name in _CLASSIFIERS if hasattr(made, name))
        last = [layer for layer in getattr(made, name).modules() if isinstance(layer, (nn.Linear, nn.Conv3d))][-1]
        self.out_channels = last.in_features if isinstance(last, nn.Linear) else last.in_channels
        setattr(made, name, nn.Identity())
        self.name, self.network = network, made

    def forward(self, clips: Tensor) -> Float[Tensor, "batch {self.out_channels}"]:
        """Pooled features of every clip."""
        self._check(clips)
        features: Tensor = self.network(clips)
        return features

    def _check(self, clips: Tensor) -> None:
        shape = tuple(clips.shape)
        if clips.ndim != CLIP or shape[1] != self.in_channels:
            raise LightningMMError(f"expected clips [batch, 3, frames, height, width], got {shape}")
        check_floating(clips)
        exact, least = _EXACTLY.get(self.name), _AT_LEAST.get(self.name, (1, 1, 1))
        if exact is not None and shape[2:] != exact:
            raise LightningMMError(f"{self.name} takes clips of exactly {_size(exact)}, got {_size(shape[2:])}")
        if any(size < bound for size, bound in zip(shape[2:], least)):
            raise LightningMMError(f"{self.name} takes clips of at least {_size(least)}, got {_size(shape[2:])}")


def _size(size: tuple[int, ...]) -> str:
    frames, height, width = size
    return f"{frames} frames of {height} x {width} pixels"
