"""Small generated data with a learnable signal, for tests and first steps.

Shapes: C_m channels of modality m, S pixels per side.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.errors import LightningMMError, check_choice

CELLS = 4
"""Blocks per side; each block has one label."""


class FakeSegmentation(Dataset[dict[str, Any]]):
    """Noisy images of square blocks; each class has one colour in each modality.

    The same (seed, split, index) always returns the same sample; the colours are the same in all splits.

    Args:
        split: ``train``, ``val`` or ``test``.
        channels: Modality to its number of channels.
        num_classes: Number of classes.
        size: Pixels per side S, a multiple of 4.
        length: Number of samples.
        noise: Standard deviation of the noise; the standard deviation of the colours is 1.
        p_unobserved: Probability that a modality of a sample is ``None``; at least one is always observed.
        seed: Seed of colours and samples.

    Shape:
        ``{"inputs": {modality: [C_m, S, S] or None}, "target": Int64[S, S]}``.

    Example:
        >>> sample = FakeSegmentation("train", {"rgb": 3, "depth": 1}, length=8)[0]
        >>> sample["inputs"]["rgb"].shape, sample["target"].shape
        (torch.Size([3, 32, 32]), torch.Size([32, 32]))
    """

    def __init__(
        self,
        split: str,
        channels: Mapping[str, int],
        num_classes: int = 3,
        size: int = 32,
        length: int = 16,
        noise: float = 0.3,
        p_unobserved: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_choice("split", split, ("train", "val", "test"))
        if size < CELLS or size % CELLS:
            raise LightningMMError(f"size must be a positive multiple of {CELLS}, got {size}")
        self.split, self.channels, self.num_classes = split, dict(channels), num_classes
        self.size, self.length, self.noise = size, length, noise
        self.p_unobserved, self.seed = p_unobserved, seed
        generator = self._generator("colours")
        self.colours = {
            name: torch.randn(num_classes, count, generator=generator) for name, count in self.channels.items()
        }

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of a data set of {self.length} samples")
        generator = self._generator(f"{self.split}/{index}")
        cells = torch.randint(self.num_classes, (CELLS, CELLS), generator=generator)
        block = self.size // CELLS
        target = cells.repeat_interleave(block, 0).repeat_interleave(block, 1)
        inputs: dict[str, Tensor | None] = {}
        for name, count in self.channels.items():
            noise = torch.randn(count, self.size, self.size, generator=generator)
            inputs[name] = self.colours[name][target].movedim(-1, 0) + self.noise * noise
        lost = torch.rand(len(inputs), generator=generator) < self.p_unobserved
        if lost.all():
            lost[int(torch.randint(len(inputs), (1,), generator=generator))] = False
        for name, gone in zip(list(inputs), lost.tolist()):
            if gone:
                inputs[name] = None
        return {"inputs": inputs, "target": target}

    def _generator(self, key: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{key}".encode()))
