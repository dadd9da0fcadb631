"""Decoders of segmentation-models-pytorch with one way to set their widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import nn

from lightning_mm.errors import LightningMMError, check_choice

DecoderName = Literal["unet", "fpn", "segformer"]


def build_decoder(name: DecoderName, widths: Sequence[int], channels: Sequence[int] | None) -> tuple[nn.Module, int]:
    """Build a decoder for fused features; returned with the number of its output channels.

    Args:
        name: ``unet`` has the full resolution, ``fpn`` and ``segformer`` a quarter of it.
        widths: Channels of every scale, the input resolution first (its values are never read, only its size).
        channels: ``unet``: one width per scale, coarsest first (default 256, 128, 64, 32, 16 from the right number of
            scales); ``fpn``: widths of the pyramid and of the segmentation blocks (256, 128); ``segformer``: one (256).

    Raises:
        LightningMMError: If the name is unknown, or the channels or the number of scales do not fit.

    Reference:
        U-Net arXiv 1505.04597, FPN arXiv 1612.03144, SegFormer arXiv 2105.15203.
    """
    check_choice("decoder", name, get_args(DecoderName))
    # imported here, as it takes a second that commands without a decoder need not wait
    from segmentation_models_pytorch.base.initialization import initialize_decoder
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
    from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    depth = len(widths) - 1
    if name == "unet":
        chosen = _expect(name, channels, [256, 128, 64, 32, 16][-depth:], "one width per scale")
        decoder: nn.Module = UnetDecoder(list(widths), chosen, n_blocks=depth)
        out_channels = chosen[-1]
    elif name == "fpn":
        if depth < 4:  # its four scales would include the raw input, and with it the values of absent modalities
            raise LightningMMError(f"decoder 'fpn' needs encoder_depth 4 or 5, got {depth}; use 'unet'")
        pyramid, segmentation = _expect(name, channels, [256, 128], "the widths of pyramid and segmentation blocks")
        decoder = FPNDecoder(list(widths), depth, pyramid_channels=pyramid, segmentation_channels=segmentation)
        out_channels = segmentation
    else:
        (out_channels,) = _expect(name, channels, [256], "one width")
        decoder = SegformerDecoder(list(widths), depth, segmentation_channels=out_channels)
    initialize_decoder(decoder)
    return decoder, out_channels


def scales_read(name: DecoderName, depth: int) -> range:
    """Return the scales (1 is half the input size) that a decoder reads: ``fpn`` only the last four."""
    return range(max(depth - 3, 1), depth + 1) if name == "fpn" else range(1, depth + 1)


def _expect(name: str, channels: Sequence[int] | None, default: list[int], what: str) -> list[int]:
    if channels is None:
        return default
    if len(channels) != len(default) or min(channels) < 1:
        raise LightningMMError(f"decoder_channels of {name!r} must be {what}, e.g. {default}, got {list(channels)}")
    return list(channels)
