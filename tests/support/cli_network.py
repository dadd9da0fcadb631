"""Networks that configs of tests name: one convolution per modality, summed; a stream of a video network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """Enough of a segmenter to learn something in a second."""

    def __init__(self, channels: dict[str, int], num_classes: int, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.channels, self.num_classes = dict(channels), num_classes
        self.encoders = nn.ModuleDict({name: nn.Conv2d(size, width, 3, padding=1) for name, size in channels.items()})
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        features = torch.stack([encoder(inputs[name]) for name, encoder in self.encoders.items()]).sum(0)
        dropped = nn.functional.dropout(torch.relu(self.norm(features)), self.dropout, self.training)
        return self.head(dropped)


class CrowdedNetwork(TinyNetwork):
    """Takes the mean over the samples of a batch away."""

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        outputs = super().forward(inputs)
        return outputs - outputs.mean(0, keepdim=True)


class TinyStream(nn.Sequential):
    """A stream of the user for MultiStreamVideoNetwork: convolutions over time and space with BatchNorm."""

    in_channels, out_channels = 3, 6

    def __init__(self) -> None:
        block = [nn.Conv3d(3, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4), nn.ReLU()]
        super().__init__(*block, nn.Conv3d(4, 6, (2, 3, 3), stride=2), nn.AdaptiveAvgPool3d(1), nn.Flatten())
