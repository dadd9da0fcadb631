"""A network for videos of several modalities: one stream each, and their logits vote.

Shapes: B samples, M modalities, V votes, K classes, T frames, H x W pixels, D features of a stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities
from lightning_mm.models.inputs import (
    check_available,
    check_inputs,
    check_positive,
    check_probability,
    parts_of_modalities,
)
from lightning_mm.models.video_encoder import CLIP, VideoEncoder


class MultiStreamVideoNetwork(nn.Module):
    """One video network per modality, each with its own logits; the prediction is the mean of the votes.

    The vote of an absent modality is left out of the mean. The fusion vote reads the features of all streams and was
    trained with all of them, so it counts only if all modalities are available.

    Args:
        streams: Modality to the name of its video network, see :class:`~lightning_mm.models.VideoEncoder`, or to any
            module from ``[B, C, T, H, W]`` to ``[B, D]`` that says its D in ``out_channels``; the order is the column
            order of ``available``.
        num_classes: Number of classes K.
        weights: Name of torchvision's weights for all streams, such as ``KINETICS400_V1``; ``None`` starts at random.
        fusion_vote: Whether there is one more vote: a linear layer on the concatenated features of all streams.
        dropout: Probability of dropping a feature before the layers that vote, in training, below 1.
        vote_absent: False: absent inputs never enter; logits and gradients are the same bits whatever is there,
            and the stream of a modality that is absent everywhere gets zero gradient. True: ``available`` is ignored,
            every vote counts, also that of a stream that has only seen the fill (the released networks of UMDR,
            the setting of arXiv 2310.03986).

    Shape:
        ``{modality: [B, 3, T, H, W]}`` and ``Bool[B, M]`` -> logits ``[B, K]``. A sample without any modality gets
        zeros. T, H and W may differ between modalities, and so may the channels of streams that are not torchvision's.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> network = MultiStreamVideoNetwork({"rgb": "mc3_18", "depth": "mc3_18"}, num_classes=5).eval()
        >>> clips = {"rgb": torch.zeros(2, 3, 4, 16, 16), "depth": torch.zeros(2, 3, 4, 16, 16)}
        >>> network(clips, torch.tensor([[True, True], [True, False]])).shape
        torch.Size([2, 5])

    Reference:
        Simonyan, Zisserman: Two-Stream Convolutional Networks, NeurIPS 2014 (averaged scores of streams); Zhou
        et al.: UMDR, TPAMI 2023, arXiv 2211.09146 (streams and fusion that vote).
    """

    def __init__(
        self,
        streams: dict[str, str | nn.Module],
        num_classes: int,
        weights: str | None = None,
        fusion_vote: bool = False,
        dropout: float = 0.0,
        vote_absent: bool = False,
    ) -> None:
        super().__init__()
        check_positive(num_classes=num_classes)
        check_probability(dropout=dropout)
        self.modalities = Modalities(streams)
        self.num_classes, self.vote_absent = num_classes, vote_absent
        encoders = {name: _encoder(name, stream, weights) for name, stream in streams.items()}
        self.channels = {name: getattr(encoder, "in_channels", None) for name, encoder in encoders.items()}
        self.encoders = parts_of_modalities(encoders)
        widths: dict[str, int] = {name: encoder.out_channels for name, encoder in encoders.items()}  # type: ignore[misc]
        self.dropout = nn.Dropout(dropout)
        self.heads = parts_of_modalities({name: nn.Linear(width, num_classes) for name, width in widths.items()})
        self.head_fusion = nn.Linear(sum(widths.values()), num_classes) if fusion_vote else None

    def forward(
        self, inputs: Mapping[str, Tensor], available: Tensor | None = None
    ) -> Float[Tensor, "batch {self.num_classes}"]:
        """Mean of the logits that vote; ``available=None`` means that all modalities are there."""
        self._check(inputs, available)
        first = inputs[self.modalities[0]]
        if available is None or self.vote_absent:
            # The same arithmetic as with a mask of ones: a complete batch gives the same bits either way.
            present = torch.ones(first.shape[0], len(self.channels), dtype=torch.bool, device=first.device)
        else:
            present = available
        features, votes = [], []
        for column, (name, encoder) in enumerate(self.encoders.items()):
            clip = inputs[name]
            if not self.vote_absent:
                # Absent votes are masked below; this keeps a NaN out of the gradients and batch statistics too.
                clip = torch.where(present[:, column].view(-1, 1, 1, 1, 1), clip, 0.0)
            features.append(self.dropout(self._encode(name, encoder, clip)))
            votes.append(self.heads[name](features[-1]))
        counts = present
        if self.head_fusion is not None:
            votes.append(self.head_fusion(torch.cat(features, dim=1)))
            counts = torch.cat([present, present.all(dim=1, keepdim=True)], dim=1)
        logits = torch.stack(votes, dim=1)
        # torch.where and not a product: 0 * NaN is NaN.
        total = torch.where(counts.unsqueeze(2), logits, 0.0).sum(dim=1)
        return total / counts.sum(dim=1, keepdim=True).clamp(min=1).to(total.dtype)

    def _encode(self, name: str, encoder: nn.Module, clip: Tensor) -> Tensor:
        try:
            features: Tensor = encoder(clip)
        except LightningMMError as error:
            raise LightningMMError(f"modality {name!r}: {error}") from error
        return features

    def _check(self, inputs: Mapping[str, Tensor], available: Tensor | None) -> None:
        check_inputs(inputs, self.modalities)
        batch = inputs[self.modalities[0]].shape[0]
        for name in self.modalities:
            shape = tuple(inputs[name].shape)
            if len(shape) != CLIP or shape[0] != batch or not inputs[name].is_floating_point():
                raise LightningMMError(
                    f"modality {name!r}: expected clips [{batch}, channels, frames, height, width] of floating point, "
                    f"as many as of {self.modalities[0]!r}, got {inputs[name].dtype} {shape}"
                )
        check_available(available, self.modalities, batch)


def _encoder(name: str, stream: str | nn.Module, weights: str | None) -> nn.Module:
    if isinstance(stream, str):
        try:
            return VideoEncoder(stream, weights)
        except LightningMMError as error:
            raise LightningMMError(f"modality {name!r}: {error}") from error
    if not isinstance(getattr(stream, "out_channels", None), int):
        raise LightningMMError(
            f"modality {name!r}: its stream {type(stream).__name__} must say how wide its vectors are in an attribute "
            "`out_channels`"
        )
    return stream
