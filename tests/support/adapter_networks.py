"""Small networks of several shapes for the tests of the adapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MixedNetwork(nn.Module):
    """Keyword inputs, a convolution with BatchNorm, a GRU over tokens, a merged (B*T) linear, a transformer layer."""

    def __init__(self, width: int = 8, batch_first: bool = True) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2))
        self.words = nn.Embedding(11, width)
        self.reader = nn.GRU(width, width, batch_first=True)
        self.frames = nn.Linear(5, width)
        self.mixer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=batch_first, dropout=0.1)
        self.head = nn.Linear(width, 4)
        self.batch_first = batch_first

    def forward(self, picture: Tensor, *, text: Tensor, extra: dict[str, Tensor]) -> Tensor:
        image = self.image(picture).flatten(2).transpose(1, 2)
        words, _ = self.reader(self.words(text))
        audio = extra["audio"]
        frames = self.frames(audio.flatten(0, 1)).view(*audio.shape[:2], -1)
        tokens = torch.cat([image, words, frames], 1)
        if not self.batch_first:
            return self.head(self.mixer(tokens.transpose(0, 1)).mean(0))
        return self.head(self.mixer(tokens).mean(1))


MIXED_NAMES = ["image", "text", "audio"]
MIXED_INPUTS = {"image": "picture", "audio": "extra.audio"}


def mixed_call(batch: int = 7, seed: int = 0) -> tuple[tuple[Tensor, ...], dict[str, object]]:
    """A call of :class:`MixedNetwork`."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randn(batch, 3, 4, 4, generator=generator)
    text = torch.randint(0, 11, (batch, 6), generator=generator)
    audio = torch.randn(batch, 3, 5, generator=generator)
    return (picture,), {"text": text, "extra": {"audio": audio}}


def row_of(
    call: tuple[tuple[Tensor, ...], dict[str, object]], row: int
) -> tuple[tuple[Tensor, ...], dict[str, object]]:
    """One sample of a call of :class:`MixedNetwork`."""
    (picture,), kwargs = call
    keep = slice(row, row + 1)
    return (picture[keep],), {"text": kwargs["text"][keep], "extra": {"audio": kwargs["extra"]["audio"][keep]}}  # type: ignore[index]


def randomise(module: nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Move all trainable parameters away from their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def trained_statistics(network: nn.Module, seed: int = 0) -> None:
    """Give norm layers statistics and weights as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
