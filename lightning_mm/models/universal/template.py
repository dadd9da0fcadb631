"""A learnable sample that stands in for whatever of a sample is hidden.

Shapes: B samples, C channels of all modalities together; ``*full`` is the size of whole samples, ``*size`` of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError


class Template(nn.Module):
    """One learnable value for every channel and position of a whole sample, cut to the crop that a batch shows.

    Args:
        channels: Channels C of all modalities together.
        size: Size of whole samples, two numbers for images and three for volumes.
    """

    def __init__(self, channels: int, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)
        self.values = nn.Parameter(torch.zeros(1, channels, *self.size))

    def forward(
        self, size: Sequence[int], corner: Int[Tensor, "batch dims"] | None = None
    ) -> Float[Tensor, "rows channel *size"]:
        """The part of the template at a crop.

        Args:
            size: Size of the crop.
            corner: First position of each sample's crop in the whole sample; the centre if None.

        Returns:
            One row for all samples if they have no corners.

        Raises:
            LightningMMError: If a crop is not inside the whole sample.
        """
        size = tuple(size)
        if len(size) != len(self.size) or any(part > whole for part, whole in zip(size, self.size)):
            raise LightningMMError(
                f"the template is for samples of {self.size}, got {size}; set size of the network to that of whole "
                "samples"
            )
        if size == self.size:
            return self.values
        if corner is None:
            return self._part([(whole - part) // 2 for part, whole in zip(size, self.size)], size)
        starts = corner.tolist()
        for start in starts:
            if any(not 0 <= one <= whole - part for one, part, whole in zip(start, size, self.size)):
                raise LightningMMError(
                    f"a crop of {size} that starts at {start} is not inside samples of {self.size}; set size of the "
                    "network to that of whole samples"
                )
        return torch.cat([self._part(start, size) for start in starts])

    def spread(self) -> Float[Tensor, ""]:
        """L2 norm of the template's distance from the mean of each channel."""
        centred = self.values - self.values.flatten(2).mean(2).view(1, -1, *[1] * len(self.size))
        return torch.linalg.vector_norm(centred)

    def _part(self, start: Sequence[int], size: Sequence[int]) -> Tensor:
        values: Tensor = self.values
        for axis, (first, part) in enumerate(zip(start, size), 2):
            values = values.narrow(axis, first, part)
        return values
