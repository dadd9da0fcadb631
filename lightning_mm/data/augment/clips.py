"""Augmentations that treat all frames of all modalities alike; every random number comes from the generator.

Shapes: an input is a clip ``[C, T, H, W]``; T may differ between the modalities of a sample, H and W may not. The
target passes through and must therefore belong to the clip as a whole, not to its pixels.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_mm.data.augment.base import Augmentation, Sample, check_pair, map_inputs, random_square
from lightning_mm.errors import LightningMMError, check_fraction, check_whole


class FlipClips(Augmentation):
    """Exchanges left and right in all frames of all modalities.

    Args:
        p: Probability.

    Raises:
        LightningMMError: If ``p`` is out of range; when called, if an input is not a clip, or sizes differ.

    Example:
        >>> import torch
        >>> sample = {"inputs": {"rgb": torch.arange(3.0).expand(1, 2, 3, 3), "depth": None}, "target": 1}
        >>> FlipClips(p=1.0)(sample, np.random.default_rng(0))["inputs"]["rgb"][0, 0, 0]
        tensor([2., 1., 0.])
    """

    def __init__(self, p: float = 0.5) -> None:
        check_fraction("FlipClips: p", p)
        self.p = float(p)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        _size(sample)
        flip = rng.random() < self.p
        return map_inputs(sample, lambda clip: clip.flip(-1)) if flip else dict(sample)


class CropClips(Augmentation):
    """Crops a random square, the same in every frame, and resizes it (bilinear).

    Args:
        size: Height and width after resizing, in pixels.
        scale: Least and greatest side of the square, as a part of the clip's shorter side.

    Raises:
        LightningMMError: If ``size`` is not positive or ``scale`` not an ascending pair in (0, 1]; when called, if an
            input is not a clip, or sizes differ.

    Example:
        >>> import torch
        >>> sample = {"inputs": {"rgb": torch.zeros(3, 4, 20, 30), "depth": None}, "target": 1}
        >>> CropClips(16)(sample, np.random.default_rng(0))["inputs"]["rgb"].shape
        torch.Size([3, 4, 16, 16])
    """

    def __init__(self, size: int, scale: tuple[float, float] = (0.8, 1.0)) -> None:
        check_whole("CropClips: size", size, 1)
        self.size, self.scale = size, check_pair("CropClips: scale", scale, above_zero=True, most=1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        top, left, side = random_square(_size(sample), self.scale, rng)

        def crop(clip: Tensor) -> Tensor:
            cut = clip[..., top : top + side, left : left + side]
            if side == self.size:
                return cut.contiguous()
            # interpolate takes the frames for channels; it averages the pixels that it drops
            size = (self.size, self.size)
            return interpolate(cut, size, mode="bilinear", align_corners=False, antialias=side > self.size)

        return map_inputs(sample, crop)


def _size(sample: Sample) -> tuple[int, int]:
    sizes = {}
    for name, value in sample["inputs"].items():
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
            form = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise LightningMMError(
                f"{name}: this augmentation takes clips, Float[C, T, H, W], got {form}; for images there are Dihedral "
                "and RandomCropResize, for other data write one of your own (any callable of sample and rng)"
            )
        sizes[name] = (value.shape[-2], value.shape[-1])
    if len(set(sizes.values())) != 1:
        raise LightningMMError(f"clips must have one height and width to be augmented alike, got {sizes}")
    return next(iter(sizes.values()))
