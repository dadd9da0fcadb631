"""Colours that stay apart for the colour-blind, and marks that tell methods apart without them."""

from __future__ import annotations

import math
from collections.abc import Sequence

VIRIDIS = (
    "#440154", "#48186a", "#472d7b", "#424086", "#3b528b", "#33638d", "#2c728e", "#26828e", "#21918c", "#1fa088",
    "#28ae80", "#3fbc73", "#5ec962", "#84d44b", "#addc30", "#d8e219", "#fde725",
)  # fmt: skip
"""The scale of the heat map, in sixteenths."""
BLUE_TO_RED = (
    "#053061", "#175290", "#2a71b2", "#3f8ec0", "#6bacd1", "#9bc9e0", "#c2ddec", "#e0ecf3", "#f7f6f6", "#fbe5d8",
    "#fbccb4", "#f5aa89", "#e48066", "#d05548", "#ba2832", "#930e26", "#67001f",
)  # fmt: skip
"""Harms to helps, in sixteenths; the middle is zero."""
INK = "#22303c"
"""Dark text on coloured cells, in light and in dark pages."""
HUES = 7
"""Number of colours of methods, ``--hue0`` to ``--hue6`` in the style sheet (Okabe and Ito, without yellow)."""
MARKS = ("circle", "square", "triangle", "diamond", "cross")
DASHES = ("", "6 3", "2 3")


def ramp(share: float, stops: Sequence[str] = VIRIDIS) -> str:
    """The colour at a share of a scale; shares outside [0, 1] get its ends."""
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    low = min(int(place), len(stops) - 2)
    one, other = (_channels(stops[position]) for position in (low, low + 1))
    mixed = [round(a + (b - a) * (place - low)) for a, b in zip(one, other)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def is_dark(colour: str) -> bool:
    """Whether white is easier to read on a colour than :data:`INK` (the contrast of WCAG 2)."""
    own, ink = (0.05 + _luminance(one) for one in (colour, INK))
    return 1.05 / own > own / ink


def _luminance(colour: str) -> float:
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def shares(values: Sequence[float], low: float, high: float, reverse: bool) -> list[float]:
    """Places of values on a scale from ``low`` to ``high``; NaN stays."""
    span = (high - low) or 1.0
    found = [(value - low) / span for value in values]
    return [1 - share if reverse and math.isfinite(share) else share for share in found]


def _channels(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue
