"""Reading the files of image data sets: pictures of 8 and 16 bits, label images and arrays; errors name the file.

Shapes: H x W pixels, C channels.
"""

from __future__ import annotations

import tokenize
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lightning_mm.errors import DataNotFoundError, LightningMMError

Array = NDArray[Any]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1]; what networks that start from ImageNet weights expect."""

VOID = 255
"""Label of pixels that count in neither loss nor metrics."""

_CHANNELS = {"L": 1, "I;16": 1, "I;16B": 1, "I": 1, "RGB": 3, "RGBA": 4}
_FORMS = {1: "gray", 3: "RGB", 4: "four channels (RGBA)"}
_LABEL_MODES = ("L", "P", "I;16", "I;16B", "I")  # numbers, or numbers with a palette of colours for the eye

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError)
"""Pillow tells of damage in all of these ways, depending on where it begins; the last is a size that cannot be."""


def read_image(path: Path, channels: Sequence[int]) -> Array:
    """Decode a picture to ``UInt8[H, W, C]`` or ``UInt16[H, W, C]``, as stored; channels in the order of the file.

    A PNG or JPEG holds red, green, blue in this order. OpenCV turns it round when it writes and again when it reads, so
    that a file made by OpenCV has its red first, too.

    Args:
        path: A PNG or JPEG file.
        channels: The allowed numbers of channels.

    Raises:
        DataNotFoundError: If the file is not there.
        LightningMMError: If it is damaged, or has another number of channels.
    """
    image, low = _open(path)
    found = _CHANNELS.get(image.mode, 0)
    if found not in channels:
        wanted = " or ".join(_FORMS[number] for number in channels)
        raise LightningMMError(f"{path} should be {wanted}, 8 or 16 bits, got mode {image.mode}")
    values = np.asarray(image)
    if low is not None:
        values = values.astype(np.uint16) << 8 | np.asarray(low)
    elif values.dtype != np.uint8:
        values = values.astype(np.uint16)
    return values.reshape(*values.shape[:2], found)


def read_labels(path: Path, num_classes: int, first: int = 0, void: Sequence[int] = (VOID,)) -> NDArray[np.uint8]:
    """Decode a label image to ``UInt8[H, W]`` of classes 0 to ``num_classes - 1`` and 255 where there is none.

    Args:
        path: A PNG file of one channel; of one with a palette the indices are taken.
        num_classes: How many classes there are.
        first: The number of class 0 in the file.
        void: Numbers in the file of pixels without a class.

    Raises:
        DataNotFoundError: If the file is not there.
        LightningMMError: If it is damaged, has several channels, or holds other numbers.
    """
    image, _ = _open(path)
    if image.mode not in _LABEL_MODES:
        raise LightningMMError(f"{path} should be a label image of one channel, got mode {image.mode}")
    stored = np.asarray(image).astype(np.int64)
    empty = np.isin(stored, void)
    wrong = ~empty & ((stored < first) | (stored >= first + num_classes))
    if wrong.any():
        raise LightningMMError(
            f"label out of range in {path}: expected {first} to {first + num_classes - 1}, and "
            f"{' or '.join(map(str, void))} for no class; got {np.unique(stored[wrong])[:8].tolist()}"
        )
    return np.where(empty, VOID, stored - first).astype(np.uint8)


def read_array(path: Path) -> NDArray[np.float32]:
    """Read an ``.npy`` file of ``[H, W]`` finite numbers; pickled objects are refused, since they can run code.

    Raises:
        DataNotFoundError: If the file is not there.
        LightningMMError: If it is damaged or holds something else.
    """
    try:
        with path.open("rb") as file:
            values = np.load(file, allow_pickle=False)
            if not isinstance(values, np.ndarray):
                raise ValueError("an archive, not one array")
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} is not there; copy it from the source") from error
    except PermissionError:  # an OSError, but no damage
        raise
    except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError) as error:
        raise LightningMMError(f"{path} is damaged ({error}); copy it again from the source") from error
    if values.dtype.kind not in "iuf" or values.ndim != 2:
        raise LightningMMError(f"{path}: expected numbers [H, W], got {values.dtype} of shape {values.shape}")
    numbers: NDArray[np.float32] = values.astype(np.float32)
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        raise LightningMMError(f"{path} holds {bad} values that are not finite; copy it again from the source")
    return numbers


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


def resize_image(values: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """Scale and resize ``[H, W, C]``: mean over the area when smaller, bilinear when larger."""
    height, width = size
    smaller = height <= values.shape[0] and width <= values.shape[1]
    how = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    layers = [Image.fromarray(np.ascontiguousarray(layer)) for layer in np.moveaxis(scale(values), -1, 0)]
    return np.stack([np.asarray(layer.resize((width, height), how)) for layer in layers], axis=-1)


def resize_labels(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize ``[H, W]`` without mixing labels."""
    resized = Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(resized, dtype=np.uint8)


def to_tensor(values: Array, normalise: bool = False) -> torch.Tensor:
    """``[H, W, C]`` of 8 bits, 16 bits or floats to ``Float[3, H, W]``: scaled, one channel repeated to three.

    Args:
        values: The picture.
        normalise: Whether to subtract the mean of ImageNet and divide by its standard deviation.
    """
    scaled: Array = np.broadcast_to(scale(values), (*values.shape[:2], 3))
    if normalise:
        scaled = (scaled - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return torch.from_numpy(scaled.transpose(2, 0, 1).copy())


def _open(path: Path) -> tuple[Image.Image, Image.Image | None]:
    """The decoded image, and the low bytes of one with three channels of 16 bits, of which Pillow gives the high ones.

    Such a PNG is decoded twice: once as Pillow does it, and once as if the low byte came last to be the high one.
    """
    try:
        with Image.open(path) as image:
            # (decoder, extents, offset, raw mode): the last says how a pixel lies in the file.
            raw = [tile[3] for tile in getattr(image, "tile", [])]
            image.load()
            loaded = image.copy()
        if raw not in (["RGB;16B"], ["RGBA;16B"]):
            return loaded, None
        with Image.open(path) as image:
            opened: Any = image
            opened.tile = [(*opened.tile[0][:3], raw[0].replace("16B", "16L"))]
            image.load()
            return loaded, image.copy()
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} is not there; copy it from the source") from error
    except PermissionError:  # an OSError, but no damage
        raise
    except DAMAGE as error:
        raise LightningMMError(f"{path} is damaged ({error}); copy it again from the source") from error
