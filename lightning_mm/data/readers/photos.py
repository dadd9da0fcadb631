"""Photos of any mode and size as tensors: resized as ViLT does, and normalised to -1 to 1.

Shapes: H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lightning_mm.data.readers.images import decode


def read_photo(path: Path) -> Image.Image:
    """Read an image of any mode (gray, palette, CMYK, with transparency) as RGB.

    Raises:
        DataNotFoundError: If the file is not there.
        PermissionError: If it may not be read.
        LightningMMError: If it is damaged.
    """
    photo = decode(path)
    # A palette may hold transparency, which only RGBA can take over.
    whole = photo.convert("RGBA") if photo.mode == "P" else photo
    return whole.convert("RGB")


def size_within(size: tuple[int, int], shorter: int, longer: int, multiple: int) -> tuple[int, int]:
    """Scale width and height, keeping their ratio.

    The shorter side becomes ``shorter`` unless the longer one would exceed ``longer``. Both are rounded down
    to multiples of ``multiple``, at least one.

    Example:
        >>> size_within((1000, 500), shorter=384, longer=640, multiple=32)
        (640, 320)
    """
    scale = min(shorter / min(size), longer / max(size))
    width, height = (max(int(side * scale + 0.5) // multiple, 1) * multiple for side in size)
    return width, height


def resized(photo: Image.Image, width: int, height: int) -> Float[Tensor, "3 {height} {width}"]:
    """Resize (bicubic) and normalise by mean and standard deviation 0.5 in each channel."""
    values = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))) / 127.5 - 1
