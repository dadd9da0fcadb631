"""A network that reconstructs what is hidden of a sample, and segments it with a head of its combination.

Shapes: B samples, M modalities, C_m channels of modality m, K classes; ``*size`` as in
:mod:`lightning_mm.models.universal.unet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.models.inputs import check_positive
from lightning_mm.models.universal.class_head import CombinationHyper
from lightning_mm.models.universal.template import Template
from lightning_mm.models.universal.unet import MultiEncoderUNet

_CONVS = {2: nn.Conv2d, 3: nn.Conv3d}


class Segmented(NamedTuple):
    """Logits ``[B, K, *size]`` and the decoder's features ``[B, D, *size]``."""

    logits: Tensor
    features: Tensor


class UniversalSegmenter(MultiEncoderUNet):
    """A U-Net in which a learnable template stands in for what is hidden, with a second head that reconstructs inputs.

    Own reconstruction of arXiv 2406.01987: the paper's body could not be read; read: its abstract (modality- and
    patch-masked reconstruction, completed samples that teach, parameters that a hyper-network makes for each
    combination) and the form of head and hyper-network in arXiv 2301.00785; chosen by us: the U-Net with an encoder per
    modality, the template (after M3AE), all sizes, and the zero start of the hyper-network.

    Args:
        channels: Modality to its number of input channels; the order is the column order of ``available``.
        num_classes: Number of classes K.
        size: Size of whole samples, two numbers for images and three for volumes, or the side of square images; the
            template has one value for each channel and position. Crops may be smaller, with their ``corner`` or about
            the centre.
        cell: Side of the squares or cubes that pre-training hides.
        hyper: Whether a small network changes the head of every class by the combination of a sample; without an effect
            at the start, see :class:`~lightning_mm.models.universal.class_head.CombinationHyper`.
        text: A file with an embedding of a text for every combination, for ``hyper``; see there.
        widths: As in :class:`~lightning_mm.models.universal.unet.MultiEncoderUNet`.
        head_width: As there.

    Shape:
        ``{modality: [B, C_m, *size]}`` and ``Bool[B, M]`` -> logits ``[B, K, *size]``; what stands in absent places has
        no effect.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> network = UniversalSegmenter({"flair": 1, "t2": 1}, num_classes=2, size=[16, 16], widths=[4, 8])
        >>> images = {"flair": torch.zeros(2, 1, 16, 16), "t2": torch.zeros(2, 1, 16, 16)}
        >>> network(images, torch.tensor([[True, True], [True, False]])).shape
        torch.Size([2, 2, 16, 16])
    """

    mask_absent = True

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        size: int | Sequence[int],
        cell: int = 8,
        hyper: bool = False,
        text: str | None = None,
        widths: Sequence[int] = (8, 16, 32, 64),
        head_width: int = 8,
    ) -> None:
        size = [size, size] if isinstance(size, int) else list(size)
        if len(size) not in (2, 3) or not all(isinstance(side, int) and side > 0 for side in size):
            raise LightningMMError(
                f"size: expected height and width of images, or depth, height and width of volumes, got {size}"
            )
        check_positive(cell=cell)
        if text is not None and not hyper:
            raise LightningMMError("text: embeddings of combinations are for the hyper-network; set hyper to true")
        dims: Literal[2, 3] = 2 if len(size) == 2 else 3
        super().__init__(channels, num_classes, dims, widths, head_width)
        self.cell = cell
        self.template = Template(sum(channels.values()), size)
        self.reconstruction = _CONVS[dims](widths[0], sum(channels.values()), 1)
        weights = self.head.weights.shape[1]
        self.hyper = CombinationHyper(list(channels), widths[-1], num_classes, weights, text) if hyper else None

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        available: Bool[Tensor, "batch modality"] | None = None,
        corner: Int[Tensor, "batch dims"] | None = None,
    ) -> Float[Tensor, "batch {self.num_classes} *size"]:
        """Logits of every pixel or voxel; ``available=None`` means that all modalities are there."""
        return self.segment(inputs, available, corner).logits

    def segment(
        self, inputs: Mapping[str, Tensor], available: Tensor | None = None, corner: Tensor | None = None
    ) -> Segmented:
        """Logits and features of the decoder for samples whose absent modalities are those of the template."""
        self.check(inputs, available)
        if available is None:
            first = inputs[self.modalities[0]]
            available = torch.ones(first.shape[0], len(self.channels), dtype=torch.bool, device=first.device)
        features, bottleneck = self.decode(self.filled(inputs, available, corner))
        change = None if self.hyper is None else self.hyper(available, bottleneck)
        return Segmented(self.head(self.narrow(features), change), features)

    def reconstruct(
        self, inputs: Mapping[str, Tensor], shown: Tensor, corner: Tensor | None = None
    ) -> dict[str, Float[Tensor, "batch channel *size"]]:
        """All modalities as the network sees them in what is shown.

        Args:
            inputs: ``{modality: [B, C_m, *size]}``.
            shown: ``Bool[B, M]``, or ``Bool[B, M, *size]`` for parts of modalities.
            corner: See :class:`~lightning_mm.models.universal.template.Template`.
        """
        self.check(inputs, None)
        features, _ = self.decode(self.filled(inputs, shown, corner))
        parts = self.reconstruction(features).split(list(self.channels.values()), dim=1)
        return dict(zip(self.channels, parts))

    def filled(
        self, inputs: Mapping[str, Tensor], shown: Tensor, corner: Tensor | None = None
    ) -> dict[str, Float[Tensor, "batch channel *size"]]:
        """Inputs exactly where they are shown, the template exactly elsewhere; arguments of :meth:`reconstruct`."""
        template = self.template(inputs[self.modalities[0]].shape[2:], corner)
        filled = {}
        for column, (name, part) in enumerate(zip(self.channels, template.split(list(self.channels.values()), dim=1))):
            there = shown[:, column].unsqueeze(1)
            if shown.ndim == 2:
                there = there.view(-1, *[1] * (self.dims + 1))
            filled[name] = torch.where(there, inputs[name], part)
        return filled
