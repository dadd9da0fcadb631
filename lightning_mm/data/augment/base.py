"""Augmentations that treat all image modalities and the target alike.

Shapes: an input is ``[C, H, W]``, a target ``[H, W]``. Every random number comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_mm.errors import LightningMMError, check_whole

Sample = dict[str, Any]


class Augmentation:
    """Base of all augmentations: a callable of a sample and a generator; the sample is not changed in place."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the augmented sample.

        Args:
            sample: ``{"inputs": {modality: Tensor[C, H, W] or None}, "target": Tensor[H, W]}``; other keys pass
                through.
            rng: Where all random numbers come from.

        Raises:
            LightningMMError: If an input or the target is not an image, or their sizes differ.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class Compose(Augmentation):
    """Several augmentations one after the other."""

    def __init__(self, augmentations: list[Augmentation]) -> None:
        self.augmentations = augmentations

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for augment in self.augmentations:
            sample = augment(sample, rng)
        return sample


class Dihedral(Augmentation):
    """Flips and quarter turns, all eight equally likely; images that are not square are only flipped."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        flip_rows, flip_columns, swap = (int(draw) for draw in rng.integers(0, 2, 3))
        height, width = common_size(sample)
        axes = [axis for axis, flip in ((-2, flip_rows), (-1, flip_columns)) if flip]

        def turn(image: Tensor) -> Tensor:
            image = torch.flip(image, axes)
            return image.transpose(-2, -1).contiguous() if swap and height == width else image

        return map_images(sample, turn, turn)


class RandomCropResize(Augmentation):
    """Crops a random square and resizes it: bilinear for images, nearest for the target.

    Args:
        size: Height and width after resizing, in pixels.
        scale: Least and greatest side of the crop, as a part of the image's shorter side.

    Raises:
        LightningMMError: If ``size`` is not positive or ``scale`` not an ascending pair in (0, 1].
    """

    def __init__(self, size: int, scale: tuple[float, float] = (0.6, 1.0)) -> None:
        check_whole("RandomCropResize: size", size, 1)
        self.size, self.scale = size, check_pair("RandomCropResize: scale", scale, above_zero=True, most=1)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        top, left, side = random_square(common_size(sample), self.scale, rng)

        def crop(image: Tensor) -> Tensor:
            return image[..., top : top + side, left : left + side]

        def resize_image(image: Tensor) -> Tensor:
            shrink = side > self.size  # average the pixels that are dropped
            size = (self.size, self.size)
            out = interpolate(crop(image)[None].float(), size, mode="bilinear", align_corners=False, antialias=shrink)
            return out[0].to(image.dtype)

        def resize_target(target: Tensor) -> Tensor:
            position = torch.div((2 * torch.arange(self.size) + 1) * side, 2 * self.size, rounding_mode="floor")
            return crop(target)[..., position, :][..., position]

        return map_images(sample, resize_image, resize_target)


def common_size(sample: Sample) -> tuple[int, int]:
    """Return the height and width of the inputs and the target of a sample.

    Raises:
        LightningMMError: If one of them is not an image, or they differ.
    """
    leaves = {name: value for name, value in sample["inputs"].items() if value is not None}
    leaves["target"] = sample["target"]
    sizes = {}
    for name, value in leaves.items():
        if not isinstance(value, Tensor) or value.ndim != (2 if name == "target" else 3):
            form = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise LightningMMError(
                f"{name}: this augmentation takes inputs [C, H, W] and a target [H, W], got {form}; write "
                "your own augmentation (any callable of sample and rng) for other data"
            )
        sizes[name] = (value.shape[-2], value.shape[-1])
    if len(set(sizes.values())) != 1:
        raise LightningMMError(f"inputs and target must have one height and width to be augmented alike, got {sizes}")
    return sizes["target"]


def map_inputs(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    """Change all inputs of a sample; one that was not observed stays None."""
    inputs = {name: None if value is None else change(value) for name, value in sample["inputs"].items()}
    return {**sample, "inputs": inputs}


def map_images(sample: Sample, image: Callable[[Tensor], Tensor], target: Callable[[Tensor], Tensor]) -> Sample:
    """Change all inputs and the target of a sample; an input that was not observed stays None."""
    return {**map_inputs(sample, image), "target": target(sample["target"])}


def random_square(size: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw the top, left and side of a square in an image of ``size``, its side a part of the shorter side."""
    height, width = size
    side = max(1, round(min(height, width) * rng.uniform(*scale)))
    return int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1)), side


def check_pair(
    name: str, pair: Sequence[float], above_zero: bool = False, most: float = math.inf
) -> tuple[float, float]:
    """Return the least and greatest value of a setting as floats.

    Raises:
        LightningMMError: If they are no ascending pair, negative (with ``above_zero`` 0 is refused too), not finite, or
            above ``most``.
    """
    fits = len(pair) == 2 and 0 <= pair[0] <= pair[1] <= most and math.isfinite(pair[1])
    if not fits or (above_zero and pair[0] == 0):
        bounds = ("above 0" if above_zero else "of at least 0") + (f" and at most {most}" if most < math.inf else "")
        raise LightningMMError(f"{name} must be an ascending pair {bounds}, got {tuple(pair)}")
    return float(pair[0]), float(pair[1])
