"""Photos of any mode and size as tensors: read, resized as ViLT does, and normalised to -1 to 1.

Shapes: H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lightning_mm.data.readers.images import DAMAGE
from lightning_mm.errors import DataNotFoundError, LightningMMError


def read_photo(data_set: str, path: Path) -> Image.Image:
    """An image of any mode (gray, palette, CMYK, with transparency) as RGB.

    Raises:
        DataNotFoundError: If the file is gone.
        PermissionError: If it may not be read.
        LightningMMError: If it is damaged, truncated among that.
    """
    try:
        with Image.open(path) as image:
            image.load()
            # A palette may hold transparency, which only RGBA can take over.
            whole = image.convert("RGBA") if image.mode == "P" else image
            return whole.convert("RGB")
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{data_set}: {path} is gone since the data set was opened") from error
    except PermissionError:  # an OSError, but no damage
        raise
    except DAMAGE as error:
        raise LightningMMError(f"{data_set}: {path} is damaged ({error}); copy it again from the source") from error


def size_within(size: tuple[int, int], shorter: int, longer: int, multiple: int) -> tuple[int, int]:
    """Width and height with their ratio kept: the shorter side ``shorter`` unless the longer would exceed ``longer``.

    Both are rounded down to multiples, and are one multiple at least.

    Example:
        >>> size_within((1000, 500), shorter=384, longer=640, multiple=32)
        (640, 320)
    """
    scale = min(shorter / min(size), longer / max(size))
    width, height = (max(int(side * scale + 0.5) // multiple, 1) * multiple for side in size)
    return width, height


def resized(photo: Image.Image, width: int, height: int) -> Float[Tensor, "3 {height} {width}"]:
    """Bicubic, mean and standard deviation 0.5 in each channel."""
    values = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))) / 127.5 - 1
