"""Reading the files of image data sets: images of 8 and 16 bits and label images; errors name the file.

Shapes: H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lightning_mm.data.readers.arrays import check_labels
from lightning_mm.data.readers.damage import reading
from lightning_mm.errors import LightningMMError

Array = NDArray[Any]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1], as networks that start from ImageNet weights expect it."""

VOID = 255
"""Label of pixels that count in neither loss nor metrics."""

_CHANNELS = {"L": 1, "I;16": 1, "I;16B": 1, "I": 1, "RGB": 3, "RGBA": 4}
_FORMS = {1: "gray", 3: "RGB", 4: "four channels (RGBA)"}
_LABEL_MODES = ("L", "P", "I;16", "I;16B", "I")  # numbers, or numbers with a palette of colours for the eye


def decode(path: Path, modes: Collection[str] | None = None, expected: str = "") -> Image.Image:
    """Decode an image file as Pillow does.

    Args:
        path: The file.
        modes: The allowed modes of Pillow; any when not given.
        expected: What has these modes, for the error: ``"8-bit gray"``.

    Raises:
        DataNotFoundError: If the file is not there.
        PermissionError: If it may not be read.
        LightningMMError: If it is damaged (truncated files are) or has another mode.
    """
    with reading(path), Image.open(path) as image:
        image.load()
        decoded = image.copy()
    if modes is not None and decoded.mode not in modes:
        raise LightningMMError(f"{path} should be {expected}, got mode {decoded.mode}")
    return decoded


def read_image(path: Path, channels: Sequence[int]) -> Array:
    """Decode an image to ``UInt8[H, W, C]`` or ``UInt16[H, W, C]``, as stored; channels in the order of the file.

    A PNG or JPEG holds red, green, blue in this order. OpenCV reverses it when it writes and again when it reads, so
    that a file made by OpenCV has red first, too.

    Args:
        path: A PNG or JPEG file.
        channels: The allowed numbers of channels.

    Raises:
        DataNotFoundError: If the file is not there.
        LightningMMError: If it is damaged, or has another number of channels.
    """
    modes = [mode for mode, number in _CHANNELS.items() if number in channels]
    forms = " or ".join(_FORMS[number] for number in channels)
    image = decode(path, modes, f"{forms}, 8 or 16 bits")
    values = np.asarray(image)
    low = _low_bytes(path) if values.ndim == 3 else None
    if low is not None:
        values = values.astype(np.uint16) << 8 | np.asarray(low)
    elif values.dtype != np.uint8:
        values = values.astype(np.uint16)
    return values.reshape(*values.shape[:2], _CHANNELS[image.mode])


def read_labels(path: Path, num_classes: int, first: int = 0, void: Sequence[int] = (VOID,)) -> NDArray[np.uint8]:
    """Decode a label image to ``UInt8[H, W]`` of classes 0 to ``num_classes - 1``, and 255 if there is no class.

    Args:
        path: A PNG file of one channel; of one with a palette the indices are taken.
        num_classes: How many classes there are.
        first: The number of class 0 in the file.
        void: Numbers in the file of pixels without a class.

    Raises:
        DataNotFoundError: If the file is not there.
        LightningMMError: If it is damaged, has several channels, or holds other numbers.
    """
    stored = np.asarray(decode(path, _LABEL_MODES, "a label image of one channel")).astype(np.int64)
    last = first + num_classes - 1
    expected = f"{first} to {last}, and {' or '.join(map(str, void))} for no class"
    check_labels(path, stored, [*void, *range(first, last + 1)], expected)
    return np.where(np.isin(stored, void), VOID, stored - first).astype(np.uint8)


def scale(values: Array) -> NDArray[np.float32]:
    """Bring 8 and 16 bits to [0, 1]; floats stay as they are.

    Example:
        >>> scale(np.array([51], dtype=np.uint8)), scale(np.array([65535], dtype=np.uint16))
        (array([0.2], dtype=float32), array([1.], dtype=float32))
    """
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    scaled: NDArray[np.float32] = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    return scaled


def check_size(name: str, size: Sequence[int]) -> tuple[int, int]:
    """Return the height and width of an argument.

    Raises:
        LightningMMError: If one of them is not positive.
    """
    if len(size) != 2 or min(size) < 1:
        raise LightningMMError(f"{name} must be a positive height and width, got {tuple(size)}")
    return size[0], size[1]


def resize_image(values: Array, size: tuple[int, int]) -> Array:
    """Resize ``UInt8[H, W, C]`` or ``Float32[H, W, C]``: mean over the area when smaller, bilinear when larger."""
    height, width = size
    smaller = height <= values.shape[0] and width <= values.shape[1]
    how = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    layers = [Image.fromarray(np.ascontiguousarray(layer)) for layer in np.moveaxis(values, -1, 0)]
    return np.stack([np.asarray(layer.resize((width, height), how)) for layer in layers], axis=-1)


def resize_labels(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize ``[H, W]`` without mixing labels."""
    resized = Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(resized, dtype=np.uint8)


def to_tensor(values: Array, normalise: bool = False) -> torch.Tensor:
    """Turn ``[H, W, C]`` of 8 bits, 16 bits or floats into ``Float[3, H, W]``: scaled, one channel repeated to three.

    Args:
        values: The image.
        normalise: Whether to subtract the mean of ImageNet and divide by its standard deviation.
    """
    scaled: Array = np.broadcast_to(scale(values), (*values.shape[:2], 3))
    if normalise:
        scaled = (scaled - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return torch.from_numpy(scaled.transpose(2, 0, 1).copy())


def _low_bytes(path: Path) -> Image.Image | None:
    """The low bytes of an image with three or four channels of 16 bits, of which Pillow gives the high ones.

    Such a PNG is decoded once more, as if the low byte came last and were the high one.
    """
    with reading(path), Image.open(path) as image:
        opened: Any = image
        # (decoder, extents, offset, raw mode): the last is the order of the bytes of a pixel.
        tiles = getattr(opened, "tile", [])
        if [tile[3] for tile in tiles] not in (["RGB;16B"], ["RGBA;16B"]):
            return None
        opened.tile = [(*tiles[0][:3], tiles[0][3].replace("16B", "16L"))]
        image.load()
        return image.copy()
