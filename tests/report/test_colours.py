"""Text on coloured cells can be read: 3 to 1 or better, everywhere on both scales."""

from __future__ import annotations

import pytest

from lightning_mm.report.drawing.colours import BLUE_TO_RED, INK, VIRIDIS, is_dark, ramp


def luminance(colour: str) -> float:
    """As WCAG 2 defines it."""
    total = 0.0
    for start, weight in ((1, 0.2126), (3, 0.7152), (5, 0.0722)):
        share = int(colour[start : start + 2], 16) / 255
        total += weight * (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4)
    return total


@pytest.mark.parametrize("scale", [VIRIDIS, BLUE_TO_RED])
def test_text_has_the_better_of_two_contrasts(scale: tuple[str, ...]) -> None:
    for step in range(101):
        colour = ramp(step / 100, scale)
        pair = sorted((luminance(colour), luminance("#ffffff" if is_dark(colour) else INK)))
        other = sorted((luminance(colour), luminance(INK if is_dark(colour) else "#ffffff")))
        contrast, alternative = ((high + 0.05) / (low + 0.05) for low, high in (pair, other))
        assert contrast >= alternative, colour
        assert contrast > 3, colour
