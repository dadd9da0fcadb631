"""The JET colour map, and depth in millimetres as colours.

Shapes: H x W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def jet_table() -> Pixels:
    """Make the 256 colours of JET, ``UInt8[256, 3]`` in the order red, green, blue: dark blue, cyan, yellow, dark red.

    The piecewise-linear definition of Octave and OpenCV: with x = level / 255, blue is 1.5 - |4 x - 1|, green
    1.5 - |4 x - 2| and red 1.5 - |4 x - 3|, each cut to [0, 1], times 255, rounded half to even. Matplotlib's map of
    this name has other corners.

    Example:
        >>> jet_table()[[0, 64, 255]].tolist()
        [[0, 0, 128], [0, 128, 255], [128, 0, 0]]
    """
    level = np.arange(256)
    # in whole 510ths, so that halves are halves: 2 * 255 * (1.5 - |4 x - k|) = 765 - 2 * |4 level - 255 k|
    halves = [np.clip(765 - 2 * np.abs(4 * level - 255 * corner), 0, 510) for corner in (3, 2, 1)]
    return np.rint(np.stack(halves, axis=1) / 2).astype(np.uint8)


JET = jet_table()
"""``UInt8[256, 3]``, see :func:`jet_table`."""


def linear_levels(depth: NDArray[np.uint16], depth_range: int) -> Pixels:
    """Turn 16-bit depth into levels 0 to 255, linear up to ``depth_range``; farther is 255, and 0 (no value) stays 0.

    Example:
        >>> linear_levels(np.array([[0, 1, 4000, 9000]], dtype=np.uint16), 8000).tolist()
        [[0, 0, 128, 255]]
    """
    return np.rint(np.minimum(depth / np.float32(depth_range), 1) * 255).astype(np.uint8)


def wrapped_levels(depth: NDArray[np.uint16]) -> Pixels:
    """Turn 16-bit depth into levels as the public loader of UMDR does: 255 times the value, its lowest 8 bits.

    Depth wraps around every 256 mm and runs backwards in between; only for weights that were trained this way.

    Example:
        >>> wrapped_levels(np.array([[0, 1, 255, 256, 257]], dtype=np.uint16)).tolist()
        [[0, 255, 1, 0, 255]]
    """
    return (255 * depth.astype(np.uint32) & 255).astype(np.uint8)
