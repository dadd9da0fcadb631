"""Augmentations of the public segmentation recipes: flip, scale and crop, blur, colours.

Shapes: an input is ``[C, H, W]``, a target ``[H, W]``. Inputs and target move together; every random number comes from
the generator that is passed in, and how many are drawn does not depend on what was observed. Modalities that a sample
does not have are skipped, so that one config serves networks of fewer modalities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from lightning_mm.data.augment.base import Augmentation, Sample, check_pair, common_size, map_images
from lightning_mm.data.readers.images import IMAGENET_MEAN, IMAGENET_STD, VOID, check_size
from lightning_mm.errors import LightningMMError, check_fraction

_GRAY = (0.2989, 0.587, 0.114)  # ITU-R BT.601


class HorizontalFlip(Augmentation):
    """Exchanges left and right.

    Args:
        p: How often.

    Example:
        >>> sample = {"inputs": {"rgb": torch.ones(3, 2, 2), "thermal": None}, "target": torch.tensor([[1, 2], [3, 4]])}
        >>> HorizontalFlip(1.0)(sample, np.random.default_rng(0))["target"]
        tensor([[2, 1],
                [4, 3]])
    """

    def __init__(self, p: float = 0.5) -> None:
        check_fraction("HorizontalFlip: p", p)
        self.p = float(p)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        common_size(sample)
        if rng.random() >= self.p:
            return sample
        return map_images(sample, lambda image: image.flip(-1), lambda target: target.flip(-1))


class RandomCrop(Augmentation):
    """A random crop of fixed size; smaller images are padded at the right and the bottom.

    The sample says where the crop was taken, in its entry ``corner``: row and column of its first pixel. Flips that
    follow do not change it.

    Args:
        size: Height and width, in pixels.
        ignore_index: Pads the target; inputs are padded with 0, the mean of a normalised one.

    Raises:
        LightningMMError: If the size is not positive.
    """

    def __init__(self, size: tuple[int, int], ignore_index: int = VOID) -> None:
        self.size, self.ignore_index = check_size("RandomCrop: size", size), ignore_index

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        down, along = rng.random(2)
        corner = torch.tensor(_corner(common_size(sample), self.size, down, along))
        before = sample.get("corner", torch.zeros_like(corner))
        return {**_crop(sample, self.size, self.ignore_index, down, along), "corner": before + corner}


class RandomScaleCrop(Augmentation):
    """Resizes by a random factor and takes a random crop of fixed size; smaller images are padded right and bottom.

    Images are resized bilinearly (averaging the pixels that are dropped), targets by the nearest pixel.

    Args:
        size: Height and width of the crop, in pixels.
        scale: Least and greatest length that the shorter side of the image gets, as a part of the shorter side of the
            crop. An image of the size of the crop is thus scaled by this factor.
        ignore_index: Pads the target; inputs are padded with 0, the mean of a normalised one.

    Raises:
        LightningMMError: If the size is not positive, or ``scale`` is no ascending pair of positive numbers.

    Reference:
        The training crop of SegFormer, arXiv 2105.15203; CMNeXt, arXiv 2303.01480, has 480 x 640 for MFNet and NYUDv2
        and 512 x 512 for MCubeS.
    """

    def __init__(
        self, size: tuple[int, int], scale: tuple[float, float] = (0.5, 2.0), ignore_index: int = VOID
    ) -> None:
        self.size, self.ignore_index = check_size("RandomScaleCrop: size", size), ignore_index
        self.scale = check_pair("RandomScaleCrop: scale", scale, above_zero=True)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = common_size(sample)
        factor = rng.uniform(*self.scale) * min(self.size) / min(height, width)
        resized = max(1, round(height * factor)), max(1, round(width * factor))

        def image(value: Tensor) -> Tensor:
            out = interpolate(value[None].float(), resized, mode="bilinear", align_corners=False, antialias=factor < 1)
            return out[0].to(value.dtype)

        def target(value: Tensor) -> Tensor:
            rows, columns = (
                torch.div((2 * torch.arange(after) + 1) * before, 2 * after, rounding_mode="floor")
                for before, after in zip((height, width), resized)
            )
            return value[rows][:, columns]

        return _crop(map_images(sample, image, target), self.size, self.ignore_index, *rng.random(2))


class GaussianBlur(Augmentation):
    """Blurs some modalities alike; borders are mirrored.

    Args:
        modalities: Which ones.
        std: Least and greatest standard deviation of the blur, in pixels.
        kernel_size: Pixels that are averaged along each side, an odd number; by default eight standard deviations.
        p: How often.

    Raises:
        LightningMMError: If a setting is out of range.

    Reference:
        MCubeS (CVPR 2022): colour and near infrared, 0 to 1, half of the time; CMNeXt elsewhere: colour, 0.8 with a
        kernel of 3, a fifth of the time.
    """

    def __init__(
        self,
        modalities: list[str],
        std: tuple[float, float] = (0.0, 1.0),
        kernel_size: int | None = None,
        p: float = 0.5,
    ) -> None:
        if kernel_size is not None and (kernel_size < 1 or kernel_size % 2 == 0):
            raise LightningMMError(f"GaussianBlur: kernel_size must be a positive odd number, got {kernel_size}")
        check_fraction("GaussianBlur: p", p)
        self.modalities, self.std = list(modalities), check_pair("GaussianBlur: std", std)
        self.kernel_size, self.p = kernel_size, float(p)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = common_size(sample)
        std, chance = rng.uniform(*self.std), rng.random()
        radius = math.ceil(4 * std) if self.kernel_size is None else self.kernel_size // 2
        radius = min(radius, min(height, width) - 1)  # no more can be mirrored
        if chance >= self.p or std == 0 or radius == 0:
            return sample
        weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / std) ** 2)
        weights = weights / weights.sum()

        def blur(image: Tensor) -> Tensor:
            out = pad(image[:, None].float(), (radius,) * 4, mode="reflect")
            out = conv2d(conv2d(out, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
            return out[:, 0].to(image.dtype)

        chosen = {name: blur(value) for name, value in _observed(sample, self.modalities)}
        return {**sample, "inputs": {**sample["inputs"], **chosen}}


class ColorJitter(Augmentation):
    """Changes brightness, contrast and saturation of colour images, one after the other.

    Works on normalised inputs: the normalisation is undone first and repeated afterwards; values stay in [0, 1].

    Args:
        modalities: Which ones; they must be red, green, blue.
        brightness: Greatest change of the factor from 1.
        contrast: The same for the distance from the mean gray of the image.
        saturation: The same for the distance of a pixel from its gray.
        p: How often.
        mean: What the normalisation subtracts from red, green, blue in [0, 1].
        std: What it divides by.

    Raises:
        LightningMMError: If a setting is out of range; when called, if an input does not have three channels.

    Reference:
        CMNeXt, arXiv 2303.01480: 0.5 each, a fifth of the time, on MFNet and NYUDv2.
    """

    def __init__(
        self,
        modalities: list[str],
        brightness: float = 0.5,
        contrast: float = 0.5,
        saturation: float = 0.5,
        p: float = 0.2,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        changes = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "p": p}
        for name, value in changes.items():
            check_fraction(f"ColorJitter: {name}", value)
        self.modalities, self.p, self.mean, self.std = list(modalities), float(p), tuple(mean), tuple(std)
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        changes = (self.brightness, self.contrast, self.saturation)
        factors = [rng.uniform(1 - change, 1 + change) for change in changes]
        if rng.random() >= self.p:
            return sample
        chosen = {name: self._jitter(name, value, factors) for name, value in _observed(sample, self.modalities)}
        return {**sample, "inputs": {**sample["inputs"], **chosen}}

    def _jitter(self, name: str, image: Tensor, factors: Sequence[float]) -> Tensor:
        if image.ndim != 3 or image.shape[0] != 3:
            raise LightningMMError(f"ColorJitter: {name} should be [3, H, W], red, green, blue; got {image.shape}")
        mean, std, gray = (torch.tensor(one).view(3, 1, 1) for one in (self.mean, self.std, _GRAY))
        colours = image.float() * std + mean
        brightness, contrast, saturation = factors
        colours = (brightness * colours).clamp(0, 1)
        colours = _away(colours, (colours * gray).sum(0).mean(), contrast)
        colours = _away(colours, (colours * gray).sum(0, keepdim=True), saturation)
        return ((colours - mean) / std).to(image.dtype)


def _away(colours: Tensor, centre: Tensor, factor: float) -> Tensor:
    return (centre + factor * (colours - centre)).clamp(0, 1)


def _corner(had: tuple[int, int], size: tuple[int, int], down: float, along: float) -> tuple[int, int]:
    top, left = (int(place * (max(a - b, 0) + 1)) for place, a, b in zip((down, along), had, size))
    return top, left


def _crop(sample: Sample, size: tuple[int, int], ignore_index: int, down: float, along: float) -> Sample:
    """Cut out ``size``; ``down`` and ``along`` in [0, 1) say where."""
    height, width = common_size(sample)
    top, left = _corner((height, width), size, down, along)
    right, bottom = max(size[1] - width, 0), max(size[0] - height, 0)

    def cut(value: Tensor, fill: int) -> Tensor:
        part = value[..., top : top + size[0], left : left + size[1]]
        return pad(part, (0, right, 0, bottom), value=fill) if right or bottom else part.contiguous()

    return map_images(sample, lambda image: cut(image, 0), lambda target: cut(target, ignore_index))


def _observed(sample: Sample, modalities: Sequence[str]) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in sample["inputs"].items() if name in modalities and value is not None]
