"""A network that configs of tests name: one convolution per modality, summed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """Enough of a segmenter to learn something in a second."""

    def __init__(self, channels: dict[str, int], num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.channels, self.num_classes = dict(channels), num_classes
        self.encoders = nn.ModuleDict({name: nn.Conv2d(size, width, 3, padding=1) for name, size in channels.items()})
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        features = torch.stack([encoder(inputs[name]) for name, encoder in self.encoders.items()]).sum(0)
        return self.head(torch.relu(self.norm(features)))
