"""Encoders that output one vector per sample, for :class:`~lightning_mm.models.LateFusionClassifier`.

Each has ``in_channels`` and ``out_channels``. Layers are called ``conv`` or ``linear``, and ``norm``. A scale and a
shift after a ``conv`` and after its frozen BatchNorm say the same thing, so ``exclude: ["*.conv"]`` makes an SSF half
as large.

Shapes: B samples, C channels, H x W pixels, T time steps.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.fills import Nest
from lightning_mm.models.inputs import check_floating, check_positive, check_probability, read_sequence


class ImageEncoder(nn.Module):
    """Convolutions of stride 2 with BatchNorm and ReLU, and the mean over all pixels.

    Args:
        in_channels: Channels C of the image.
        width: Channels of the first stage; every further one has twice as many, the last one ``out_channels``.
        out_channels: Size of the vector.
        depth: Number of stages.

    Shape:
        ``[B, C, H, W]`` of any size -> ``[B, out_channels]``.

    Raises:
        LightningMMError: If a setting is below 1, or the input has another shape or is not of floating point.

    Example:
        >>> ImageEncoder(1)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 64])
    """

    feature_map = "stages"
    """The part that returns the last map."""

    def __init__(self, in_channels: int, width: int = 32, out_channels: int = 64, depth: int = 3) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, width=width, out_channels=out_channels, depth=depth)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stages = _image_stages(in_channels, [*(width * 2**stage for stage in range(depth - 1)), out_channels])

    def forward(self, image: Tensor) -> Float[Tensor, "batch {self.out_channels}"]:
        _check_image(image, self.in_channels)
        return cast(Tensor, self.stages(image)).mean((2, 3))


class SpectrogramEncoder(nn.Module):
    """As :class:`ImageEncoder`, but the mean is over time only, since frequency bands carry the information.

    Args:
        bands: Frequency bands F.
        in_channels: Channels C of the spectrogram.
        width: Channels of the first stage; every further one has twice as many.
        out_channels: Size of the vector.
        depth: Number of stages; each halves bands and time.

    Shape:
        ``[B, C, F, T]`` of any T -> ``[B, out_channels]``.

    Raises:
        LightningMMError: If a setting is below 1, or the input has another shape or is not of floating point.

    Example:
        >>> SpectrogramEncoder(bands=32)(torch.zeros(2, 1, 32, 48)).shape
        torch.Size([2, 64])
    """

    feature_map = "stages"
    """The part that returns the last map."""

    def __init__(
        self, bands: int, in_channels: int = 1, width: int = 16, out_channels: int = 64, depth: int = 3
    ) -> None:
        super().__init__()
        check_positive(bands=bands, in_channels=in_channels, width=width, out_channels=out_channels, depth=depth)
        self.bands, self.in_channels, self.out_channels = bands, in_channels, out_channels
        widths = [width * 2**stage for stage in range(depth)]
        self.stages = _image_stages(in_channels, widths)
        left = -(-bands // 2**depth)  # each stage rounds up, and so does their product
        self.project = vector_block(widths[-1] * left, out_channels)

    def forward(self, spectrogram: Tensor) -> Float[Tensor, "batch {self.out_channels}"]:
        _check_image(spectrogram, self.in_channels, self.bands)
        return cast(Tensor, self.project(self.stages(spectrogram).mean(3).flatten(1)))


class SequenceEncoder(nn.Module):
    """Convolutions over time of stride 2 with BatchNorm and ReLU, and the mean over the steps that are no padding.

    In eval mode the vector of a sequence does not depend on how far its batch is padded, nor on the values in
    the padding. In training mode padded steps enter the batch statistics as zeros, and nothing else.

    Args:
        in_channels: Channels C of a step.
        width: Channels of every stage but the last.
        out_channels: Size of the vector.
        depth: Number of stages.
        kernel_size: Steps that a convolution sees, an odd number.

    Shape:
        ``[B, T, C]`` or ``{"values": [B, T, C], "length": Int[B]}`` -> ``[B, out_channels]``.

    Raises:
        LightningMMError: If a setting is below 1 or the kernel even, or the input is no such sequence.

    Example:
        >>> padded = {"values": torch.zeros(2, 9, 3), "length": torch.tensor([9, 4])}
        >>> SequenceEncoder(3)(padded).shape
        torch.Size([2, 64])
    """

    def __init__(
        self, in_channels: int, width: int = 64, out_channels: int = 64, depth: int = 3, kernel_size: int = 5
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, width=width, out_channels=out_channels, depth=depth)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise LightningMMError(f"kernel_size must be odd, so that steps have a middle, got {kernel_size}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stages = nn.ModuleList()
        for width_in, width_out in _pairs(in_channels, [*[width] * (depth - 1), out_channels]):
            conv = nn.Conv1d(width_in, width_out, kernel_size, stride=2, padding=kernel_size // 2, bias=False)
            self.stages.append(_block(conv=conv, norm=nn.BatchNorm1d(width_out)))

    def forward(self, sequence: Nest) -> Float[Tensor, "batch {self.out_channels}"]:
        values, valid = read_sequence(sequence, self.in_channels)
        features = values.transpose(1, 2)
        for stage in self.stages:
            valid = valid[:, ::2]  # an output step counts when the step in the middle of its kernel does
            # zeros, as beyond the end: norm and adapters shift the padding too
            features = torch.where(valid.unsqueeze(1), stage(features), 0.0)
        return features.sum(2) / valid.sum(1, keepdim=True)


class VectorEncoder(nn.Module):
    """Linear layers with LayerNorm, ReLU and dropout.

    Args:
        in_channels: Size C of the input.
        width: Size of every layer but the last.
        out_channels: Size of the vector.
        depth: Number of layers.
        dropout: Probability of dropping a feature after each layer, in training, below 1.

    Shape:
        ``[B, C]`` -> ``[B, out_channels]``.

    Raises:
        LightningMMError: If a setting is out of range, or the input has another shape or is not of floating point.

    Example:
        >>> VectorEncoder(5)(torch.zeros(2, 5)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self, in_channels: int, width: int = 64, out_channels: int = 64, depth: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, width=width, out_channels=out_channels, depth=depth)
        check_probability(dropout=dropout)
        self.in_channels, self.out_channels = in_channels, out_channels
        pairs = _pairs(in_channels, [*[width] * (depth - 1), out_channels])
        self.stages = nn.Sequential(*(vector_block(*pair, dropout) for pair in pairs))

    def forward(self, vector: Tensor) -> Float[Tensor, "batch {self.out_channels}"]:
        _check_vector(vector, self.in_channels)
        return cast(Tensor, self.stages(vector))


class VectorInput(nn.Module):
    """Returns vectors as they are: the features of a frozen extractor, where a network expects an encoder.

    Args:
        in_channels: Size C of the input, and of the output.

    Shape:
        ``[B, C]`` -> ``[B, C]``.

    Raises:
        LightningMMError: If the size is below 1, or the input has another shape or is not of floating point.

    Example:
        >>> VectorInput(5)(torch.zeros(2, 5)).shape
        torch.Size([2, 5])
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        check_positive(in_channels=in_channels)
        self.in_channels = self.out_channels = in_channels

    def forward(self, vector: Tensor) -> Float[Tensor, "batch {self.out_channels}"]:
        _check_vector(vector, self.in_channels)
        return vector


def vector_block(in_channels: int, out_channels: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear, LayerNorm (any batch size will do), ReLU and dropout; ``[B, in_channels] -> [B, out_channels]``."""
    block = _block(linear=nn.Linear(in_channels, out_channels), norm=nn.LayerNorm(out_channels))
    block.add_module("dropout", nn.Dropout(dropout))
    return block


def _block(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(**layers, activation=nn.ReLU()))


def _image_stages(in_channels: int, widths: list[int]) -> nn.Sequential:
    return nn.Sequential(
        *(
            _block(conv=nn.Conv2d(*pair, kernel_size=3, stride=2, padding=1, bias=False), norm=nn.BatchNorm2d(pair[1]))
            for pair in _pairs(in_channels, widths)
        )
    )


def _pairs(in_channels: int, widths: list[int]) -> list[tuple[int, int]]:
    return list(zip([in_channels, *widths], widths))


def _check_vector(vector: Tensor, channels: int) -> None:
    if not isinstance(vector, Tensor) or vector.ndim != 2 or vector.shape[1] != channels:
        raise LightningMMError(f"expected [batch, {channels}] ({channels} channels), {_got(vector)}")
    check_floating(vector)


def _check_image(image: Tensor, channels: int, height: int | None = None) -> None:
    shape = tuple(image.shape) if isinstance(image, Tensor) else ()
    if len(shape) != 4 or shape[1] != channels or height not in (None, shape[2]):
        size = "height, width" if height is None else f"{height}, time"
        raise LightningMMError(f"expected [batch, {channels}, {size}] ({channels} channels), {_got(image)}")
    check_floating(image)


def _got(value: Nest) -> str:
    return f"got {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
