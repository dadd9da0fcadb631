"""Supervision of a reconstruction that has no truth: its values should be distributed like those of other samples.

Shapes: B samples, M modalities, b samples of one modality, C channels or features, S statistics of each; ``*size`` as
in :mod:`lightning_mm.models.universal.unet`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Literal, cast

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.models.universal.unet import ConvEncoder, MultiEncoderUNet

Statistics = Literal["moments", "hist"]
STATISTICS = ("moments", "hist")
_QUANTILES = 32
_LEVEL = 1
"""Scale of the encoder whose features are compared, half the size of the input."""
_POOLS = {2: F.max_pool2d, 3: F.max_pool3d}


class DistributionBank(nn.Module):
    """Running statistics of every modality, over samples that have it, of intensities and of an encoder's features.

    Own reconstruction of the distribution approximation of arXiv 2406.01987: the paper's body could not be read; read:
    its purpose (reconstructions of absent modalities are supervised without complete training data); chosen by us:
    everything here. Features are those of a copy of the encoders that follows their weights slowly.

    Args:
        network: Its encoders are copied.
        statistics: ``moments``: mean and standard deviation, compared by their squared difference. ``hist``: quantiles,
            compared by their mean absolute difference, the Wasserstein distance of two samples in one dimension.
        momentum: Share of the running statistics that stays in a step.
        encoder_momentum: Share of the copied weights that stays.
        background: The value of pixels that belong to nothing. Statistics are over positions where any modality of a
            sample has another one.
    """

    def __init__(
        self,
        network: MultiEncoderUNet,
        statistics: Statistics = "moments",
        momentum: float = 0.9,
        encoder_momentum: float = 0.99,
        background: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels, self.dims, self.statistics, self.background = (
            network.channels,
            network.dims,
            statistics,
            background,
        )
        self.momentum, self.encoder_momentum = momentum, encoder_momentum
        self.encoders = deepcopy(network.encoders).requires_grad_(False)
        self.each = 2 if statistics == "moments" else _QUANTILES
        # one row of numbers for each modality, intensities first
        self.sizes = {name: (count + network.widths[_LEVEL]) * self.each for name, count in self.channels.items()}
        for column, size in enumerate(self.sizes.values()):
            self.register_buffer(f"bank_{column}", torch.zeros(size, dtype=torch.float32))
        self.register_buffer("seen", torch.zeros(len(self.channels), dtype=torch.bool))

    def bank(self, column: int) -> Tensor:
        """The running statistics of a modality, all in one row."""
        return cast(Tensor, getattr(self, f"bank_{column}"))

    def foreground(
        self, inputs: Mapping[str, Tensor], observed: Bool[Tensor, "batch modality"]
    ) -> Bool[Tensor, "batch 1 *size"]:
        """Where any modality that a sample has is not background."""
        found = []
        for column, name in enumerate(self.channels):
            has = observed[:, column].view(-1, *[1] * (self.dims + 1))
            found.append((inputs[name] != self.background).any(1, keepdim=True) & has)
        return torch.stack(found).any(0)

    @torch.no_grad()
    def update(
        self, inputs: Mapping[str, Tensor], observed: Bool[Tensor, "batch modality"], foreground: Tensor
    ) -> None:
        """Move the bank towards the statistics of a batch; a modality that no sample has is not changed.

        In a distributed run the batch is that of all processes; all must call this.
        """
        sums = []
        for column, name in enumerate(self.channels):
            rows = observed[:, column] & foreground.flatten(1).any(1)
            values = self.describe(name, inputs[name][rows], foreground[rows])
            sums.append(torch.cat([values.sum(0), rows.sum().to(values.dtype).view(1)]))
        flat = torch.cat(sums)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(flat)
        seen = cast(Tensor, self.seen)
        for column, part in enumerate(flat.split([size + 1 for size in self.sizes.values()])):
            bank, new = self.bank(column), part[:-1] / part[-1].clamp(min=1)
            moved = torch.where(seen[column], self.momentum * bank + (1 - self.momentum) * new, new)
            bank.copy_(torch.where(part[-1] > 0, moved, bank))
            seen[column] |= part[-1] > 0

    def forward(
        self, reconstructed: Mapping[str, Tensor], observed: Bool[Tensor, "batch modality"], foreground: Tensor
    ) -> Float[Tensor, ""]:
        """Mean over samples of the sum, over modalities that they lack, of the distance to the bank.

        Exactly zero for modalities of which the bank knows nothing, and where all is background.
        """
        filled, seen = foreground.flatten(1).any(1), cast(Tensor, self.seen).tolist()
        total = torch.zeros((), device=observed.device)
        for column, name in enumerate(self.channels):
            rows = ~observed[:, column] & filled
            if not seen[column] or not bool(rows.any()):
                continue
            gap = self.describe(name, reconstructed[name][rows].float(), foreground[rows]) - self.bank(column)
            size = self.channels[name] * self.each
            # the two statistics of a channel are added up, and so its quantiles are averaged
            distance = 2 * gap.square() if self.statistics == "moments" else gap.abs()
            intensities, features = distance.split([size, distance.shape[1] - size], dim=1)
            total = total + intensities.mean(1).sum() + features.mean(1).sum()
        return total / len(observed)

    def describe(
        self, name: str, images: Float[Tensor, "b channel *size"], foreground: Bool[Tensor, "b 1 *size"]
    ) -> Float[Tensor, "b number"]:
        """Statistics of intensities and of features, all in one row; every sample has some foreground."""
        encoder = cast(ConvEncoder, self.encoders[name])
        if not len(images):
            return images.new_zeros(0, self.sizes[name], dtype=torch.float32)
        features = images.to(next(encoder.parameters()).dtype)
        for scale in encoder.scales[: _LEVEL + 1]:
            features = scale(features)
        smaller = _POOLS[self.dims](foreground.float(), 2**_LEVEL) > 0
        found = [self._of(images.float(), foreground), self._of(features.float(), smaller)]
        return torch.cat([one.flatten(1) for one in found], dim=1)

    @torch.no_grad()
    def follow(self, network: MultiEncoderUNet) -> None:
        """Move the copied encoders towards those of the network."""
        for copied, current in zip(self.encoders.parameters(), network.encoders.parameters()):
            copied.lerp_(current, 1 - self.encoder_momentum)

    def _of(self, values: Tensor, foreground: Tensor) -> Float[Tensor, "b channel statistic"]:
        flat, there = values.flatten(2), foreground.flatten(2)
        count = there.sum(2, keepdim=True)
        if self.statistics == "moments":
            mean = torch.where(there, flat, 0.0).sum(2, keepdim=True) / count
            variance = torch.where(there, flat - mean, 0.0).square().sum(2, keepdim=True) / count
            return torch.cat([mean, (variance + 1e-6).sqrt()], dim=2)
        ordered = torch.where(there, flat, torch.inf).sort(2).values
        steps = (torch.arange(_QUANTILES, device=values.device, dtype=values.dtype) + 0.5) / _QUANTILES
        place = steps * (count - 1)
        low = place.floor().long().expand(-1, flat.shape[1], -1)
        high = place.ceil().long().expand(-1, flat.shape[1], -1)
        return ordered.gather(2, low).lerp(ordered.gather(2, high), place - place.floor())
