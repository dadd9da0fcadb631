"""Corruptions of images, volumes, sequences and vectors: noise, blur, occlusion, missing pixels.

Shapes of one sample: an image ``[C, H, W]``, a volume ``[C, D, H, W]``, a sequence ``[T, C]``, a vector ``[D]``. The
places of an input are its pixels, its voxels, its time steps or the entries of a vector.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from lightning_mm.data.corrupt.base import Corruption


class GaussianNoise(Corruption):
    """Adds Gaussian noise to every value.

    An amount is the standard deviation of the noise, for inputs that are standardised. The five are those of ImageNet-C
    (0.08 to 0.38 for pixels in [0, 1]), divided by 0.226, the standard deviation of its images.

    Args:
        severity: 0 (nothing is changed) to 5.
        amounts: Five standard deviations instead; for inputs that are not standardised, in their unit.

    Example:
        >>> image = torch.zeros(1, 4, 4)
        >>> noisy = GaussianNoise(5)(image, np.random.default_rng(0))
        >>> noisy.shape, bool(noisy.std() > 1), GaussianNoise(0)(image, np.random.default_rng(0)) is image
        (torch.Size([1, 4, 4]), True, True)

    Reference:
        Hendrycks, Dietterich: Benchmarking neural network robustness to common corruptions, arXiv 1903.12261.
    """

    amounts: ClassVar[tuple[float, ...]] = (0.35, 0.53, 0.8, 1.15, 1.68)

    def change(self, leaf: Tensor, rng: np.random.Generator) -> Tensor:
        noise = torch.from_numpy(rng.standard_normal(tuple(leaf.shape), dtype=np.float32))
        return leaf + (self.amount * noise).to(leaf.dtype)


class Blur(Corruption):
    """Blurs over all places with a Gaussian; a sequence along time. Borders are repeated; nothing is random.

    An amount is the standard deviation of the Gaussian as a part of the size of an axis: 0.045 is 10 pixels of 224.
    The five are our choice: those of ImageNet-C (1 to 6 pixels of 224) change small images too little.

    Args:
        severity: 0 (nothing is changed) to 5.
        amounts: Five parts of the size instead.

    Example:
        >>> edge = torch.cat([torch.zeros(50, 1), torch.ones(50, 1)])
        >>> blurred = Blur(5)(edge, np.random.default_rng(0))
        >>> bool(0.3 < blurred[48] < blurred[51] < 0.7), float(blurred[0])
        (True, 0.0)
    """

    amounts: ClassVar[tuple[float, ...]] = (0.01, 0.02, 0.03, 0.045, 0.06)
    least_rank: ClassVar[int] = 2

    def change(self, leaf: Tensor, rng: np.random.Generator) -> Tensor:
        out = leaf.float()
        for axis in _axes(leaf):
            std = self.amount * leaf.shape[axis]
            radius = math.ceil(4 * std)
            weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / max(std, 1e-6)) ** 2)
            lines = out.movedim(axis, -1)
            flat = pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
            out = conv1d(flat, (weights / weights.sum()).view(1, 1, -1)).reshape(lines.shape).movedim(-1, axis)
        return out.to(leaf.dtype)


class Occlusion(Corruption):
    """Sets one box at a random place to zero, the mean of standardised inputs: a square, a cube, a stretch of time.

    An amount is the share of the places that the box covers, rounded along each axis to whole places.

    Args:
        severity: 0 (nothing is changed) to 5.
        amounts: Five shares between 0 and 1 instead.

    Example:
        >>> Occlusion(2)(torch.ones(1, 10, 10), np.random.default_rng(0)).mean()  # 0.25 of the pixels
        tensor(0.7500)
    """

    amounts: ClassVar[tuple[float, ...]] = (0.1, 0.25, 0.4, 0.55, 0.7)
    most: ClassVar[float] = 1.0

    def change(self, leaf: Tensor, rng: np.random.Generator) -> Tensor:
        out, axes = leaf.clone(), _axes(leaf)
        box = [slice(None)] * leaf.ndim
        for axis, where in zip(axes, rng.random(len(axes))):
            size = leaf.shape[axis]
            side = min(size, round(size * self.amount ** (1 / len(axes))))
            start = int(where * (size - side + 1))
            box[axis] = slice(start, start + side)
        out[tuple(box)] = 0
        return out


class MissingPixels(Corruption):
    """Sets random places to zero, all channels of a pixel or voxel together; of a sequence single values.

    An amount is the probability of each place to go missing; the places at one severity are among those at the next.

    Args:
        severity: 0 (nothing is changed) to 5.
        amounts: Five probabilities instead.

    Example:
        >>> image = MissingPixels(3)(torch.ones(3, 100, 100), np.random.default_rng(0))
        >>> bool(torch.equal(image[0], image[2])), round(float((image == 0).float().mean()), 1)
        (True, 0.5)
    """

    amounts: ClassVar[tuple[float, ...]] = (0.1, 0.3, 0.5, 0.7, 0.9)
    most: ClassVar[float] = 1.0

    def change(self, leaf: Tensor, rng: np.random.Generator) -> Tensor:
        shape = (1, *leaf.shape[1:]) if leaf.ndim > 2 else tuple(leaf.shape)
        missing = torch.from_numpy(rng.random(shape) < self.amount)
        return torch.where(missing, leaf.new_zeros(()), leaf)


def _axes(leaf: Tensor) -> tuple[int, ...]:
    """The axes of the places: all but the channels, which come first in images and last in sequences."""
    return tuple(range(1, leaf.ndim)) if leaf.ndim > 2 else (0,)
