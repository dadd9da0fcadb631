"""A corruption drawn anew for every sample, for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_mm.data.corrupt.base import SEVERITIES, Corruption
from lightning_mm.errors import LightningMMError, check_fraction


class RandomCorruption:
    """Damages a sample with some probability, by one of several corruptions at a random severity.

    Args:
        corruptions: Those to draw from, all equally likely.
        p: How often a sample is damaged.
        severities: The severities to draw from.

    Raises:
        LightningMMError: If a setting is out of range.

    Example:
        >>> import torch
        >>> from lightning_mm.data import Blur, GaussianNoise
        >>> corrupt = RandomCorruption([GaussianNoise(), Blur()], p=0.5)
        >>> image = torch.rand(1, 8, 8)
        >>> sum(corrupt(image, np.random.default_rng(seed)) is image for seed in range(1000)) // 100
        5
    """

    def __init__(self, corruptions: list[Corruption], p: float = 0.5, severities: Sequence[int] = SEVERITIES) -> None:
        check_fraction("RandomCorruption: p", p)
        if not corruptions or not severities:
            raise LightningMMError("RandomCorruption: expected one or more corruptions and severities, got none")
        self.choices = [one.at(severity) for one in corruptions for severity in severities]
        self.p = float(p)

    def __call__(self, value: Any, rng: np.random.Generator) -> Any:
        """Return the input of one modality of one sample, damaged or as it is."""
        chance, which = rng.random(), int(rng.integers(len(self.choices)))
        return self.choices[which](value, rng) if chance < self.p else value

    def __repr__(self) -> str:
        return f"RandomCorruption({self.choices}, p={self.p})"
