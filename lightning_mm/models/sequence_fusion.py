"""A transformer over the steps of all modalities, for sentiment and other labels of whole utterances.

Shapes: B samples, M modalities, T time steps, N tokens, C channels, D width of the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError, check_whole
from lightning_mm.missing import Zeros, fill_inputs
from lightning_mm.missing.fills import Nest
from lightning_mm.modalities import Modalities
from lightning_mm.models.attention import Attention
from lightning_mm.models.inputs import (
    check_available,
    check_inputs,
    check_positive,
    check_probability,
    common_batch,
    parts_of_modalities,
    read_sequence,
)


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each after a norm and with a shortcut.

    Shape:
        tokens ``[B, N, D]``, valid ``Bool[B, N]`` -> ``[B, N, D]``; every row needs a valid token.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_expansion = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Float[Tensor, "batch token width"], valid: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token width"]:
        normed = self.norm_attention(tokens)
        tokens = tokens + self.dropout(self.attention(normed, normed, normed, valid.unsqueeze(1)))
        expanded = self.dropout(F.gelu(self.expand(self.norm_expansion(tokens))))
        return tokens + self.dropout(self.contract(expanded))


class SequenceFusionTransformer(nn.Module):
    """Transformer blocks within each modality, then over the tokens of all of them and one that collects the answer.

    The answer for a sample does not depend on how far its batch is padded, nor on the values in the padding.

    Args:
        widths: Modality to the channels C_m of a step; the order is the column order of ``available``.
        num_outputs: Number of outputs K, 1 for sentiment.
        width: Width D of the tokens, even, and a multiple of ``heads``.
        heads: Attention heads.
        layers: Blocks within each modality, may be 0.
        fusion_layers: Blocks over all modalities.
        dropout: Probability of dropping features and attention weights, in training, below 1.
        mask_absent: True: absent inputs and their tokens never enter; outputs and gradients are the same bits
            whatever is there, and the blocks of a modality that is absent everywhere get zero gradient. False: the
            network ignores ``available`` and sees the fill.

    Shape:
        Each of ``{modality: ...}`` is ``[B, T, C_m]``, ``{"values": [B, T, C_m], "length": Int[B]}``, or ``[B, C_m]``
        for one step; T may differ between modalities; with ``Bool[B, M]`` -> ``[B, K]``.

    Raises:
        LightningMMError: If a setting or an input does not fit; the message names the modality.

    Example:
        >>> network = SequenceFusionTransformer({"text": 6, "audio": 3}, num_outputs=1)
        >>> audio = {"values": torch.zeros(2, 5, 3), "length": torch.tensor([5, 2])}
        >>> network({"text": torch.zeros(2, 6), "audio": audio}, torch.tensor([[True, True], [False, True]])).shape
        torch.Size([2, 1])

    Reference:
        Vaswani et al., arXiv 1706.03762 (attention, positions); Xiong et al., arXiv 2002.04745 (norm before).
    """

    def __init__(
        self,
        widths: dict[str, int],
        num_outputs: int,
        width: int = 32,
        heads: int = 4,
        layers: int = 2,
        fusion_layers: int = 2,
        dropout: float = 0.1,
        mask_absent: bool = True,
    ) -> None:
        super().__init__()
        check_positive(num_outputs=num_outputs, width=width, heads=heads, fusion_layers=fusion_layers)
        check_probability(dropout=dropout)
        check_whole("layers", layers, 0)
        if width % heads or width % 2:
            raise LightningMMError(f"width must be even and a multiple of heads, got width {width} and heads {heads}")
        self.modalities = Modalities(widths)
        self.channels = dict(widths)
        self.width, self.num_outputs, self.mask_absent = width, num_outputs, mask_absent
        check_positive(**{f"channels of modality {name!r}": channels for name, channels in widths.items()})
        self.projections = parts_of_modalities({name: nn.Linear(size, width) for name, size in widths.items()})
        self.blocks = parts_of_modalities({name: _blocks(layers, width, heads, dropout) for name in widths})
        self.zeros = Zeros()
        self.modality_embedding = nn.Parameter(0.02 * torch.randn(len(widths), width))
        self.answer = nn.Parameter(0.02 * torch.randn(width))
        self.fusion = _blocks(fusion_layers, width, heads, dropout)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_outputs)

    def forward(
        self, inputs: Mapping[str, Nest], available: Tensor | None = None
    ) -> Float[Tensor, "batch {self.num_outputs}"]:
        """Outputs of every sample; ``available=None`` means that all modalities are there."""
        check_inputs(inputs, self.modalities)
        check_available(available, self.modalities)
        masks = available if self.mask_absent else None
        if masks is not None:
            inputs = fill_inputs(self.zeros, self.modalities, inputs, masks)
        tokens, valid = [], []
        for position, name in enumerate(self.modalities):
            embedded, counts = self._embed(position, name, inputs[name])
            if masks is not None:
                present = masks[:, position, None]
                # Attention gives them no weight; this keeps their values out of the sums as well.
                embedded, counts = torch.where(present[:, :, None], embedded, 0.0), counts & present
            tokens.append(embedded)
            valid.append(counts)
        batch = common_batch(dict(zip(self.modalities, tokens)))
        check_available(available, self.modalities, batch)
        answer = self.answer.expand(batch, 1, -1)
        # The token of the answer is always valid, so no row of attention is over nothing, whatever is absent.
        sequence = torch.cat([answer, *tokens], dim=1)
        counted = torch.cat([valid[0].new_ones(batch, 1), *valid], dim=1)
        for block in self.fusion:
            sequence = block(sequence, counted)
        outputs: Tensor = self.head(self.norm(sequence[:, 0]))
        return outputs

    def _embed(
        self, position: int, name: str, value: Nest
    ) -> tuple[Float[Tensor, "batch time {self.width}"], Bool[Tensor, "batch time"]]:
        """Tokens of one modality and which of them count."""
        try:
            values, valid = read_sequence(value, self.channels[name])
        except LightningMMError as error:
            raise LightningMMError(f"modality {name!r}: {error}") from error
        tokens = self.projections[name](values)
        tokens = tokens + self.modality_embedding[position] + _positions(values.shape[1], tokens)
        for block in cast(nn.ModuleList, self.blocks[name]):
            tokens = block(tokens, valid)
        return tokens, valid


def _blocks(count: int, width: int, heads: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(count))


def _positions(steps: int, like: Float[Tensor, "batch time width"]) -> Float[Tensor, "time width"]:
    """Sines and cosines of the step, on the device and in the dtype of ``like``; any T will do."""
    half = like.shape[-1] // 2
    frequencies = torch.exp(torch.arange(half, device=like.device) * (-math.log(10000.0) / half))
    angles = torch.arange(steps, device=like.device).unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)
