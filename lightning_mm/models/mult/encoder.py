"""The encoder in which one sequence attends to another again and again, positions, and what may be attended to.

Shapes: B samples, T steps (Q of the sequence that asks, K of the one that is asked), D width of a step.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.models.attention import Attention

_GAIN_OF_FUSED = 0.5**0.5
"""The reference draws query, key and value as one matrix of ``3D`` rows, hence this smaller Xavier bound."""


class CrossmodalLayer(nn.Module):
    """Attention to another sequence, or to itself, and a two-layer perceptron, each after a norm.

    Args:
        width: Width D of a step.
        heads: Attention heads.
        attention_dropout: Of attention weights.
        relu_dropout: Of the hidden features of the perceptron.
        residual_dropout: Of what each part adds.
    """

    def __init__(
        self, width: int, heads: int, attention_dropout: float, relu_dropout: float, residual_dropout: float
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, attention_dropout)
        for layer in (self.attention.query, self.attention.key, self.attention.value, self.attention.out):
            nn.init.xavier_uniform_(layer.weight, gain=1.0 if layer is self.attention.out else _GAIN_OF_FUSED)
            nn.init.zeros_(layer.bias)
        # One norm for the steps that ask and those that are asked.
        self.norm_attention, self.norm_expansion = nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.relu_dropout, self.residual_dropout = nn.Dropout(relu_dropout), nn.Dropout(residual_dropout)

    def forward(
        self,
        steps: Float[Tensor, "batch query width"],
        source: tuple[Float[Tensor, "batch key width"], Float[Tensor, "batch key width"]] | None,
        allowed: Bool[Tensor, "batch query key"],
    ) -> Float[Tensor, "batch query width"]:
        queries = self.norm_attention(steps)
        keys, values = (queries, queries) if source is None else map(self.norm_attention, source)
        steps = steps + self.residual_dropout(self.attention(queries, keys, values, allowed))
        hidden = self.relu_dropout(F.relu(self.expand(self.norm_expansion(steps))))
        return steps + self.residual_dropout(self.contract(hidden))


class CrossmodalEncoder(nn.Module):
    """A stack of :class:`CrossmodalLayer` and a norm: a sequence takes in more of another at every level.

    All levels ask the same source, its embedded steps.

    Args:
        width: Width D of a step.
        heads: Attention heads.
        levels: Number of layers.
        attention_dropout: See :class:`CrossmodalLayer`, as for the next two.
        embedding_dropout: Of the steps that come in; those of the source are dropped twice, as keys and as values.

    Shape:
        Embedded steps ``[B, Q, D]``, those of the source ``[B, K, D]`` or None for the own ones, and which of those may
        be attended to, ``Bool[B, Q, K]`` -> ``[B, Q, D]``.

    Reference:
        Tsai et al.: Multimodal Transformer for unaligned multimodal language sequences, arXiv 1906.00295, section 3.1.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        levels: int,
        attention_dropout: float,
        relu_dropout: float,
        residual_dropout: float,
        embedding_dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(embedding_dropout)
        self.layers = nn.ModuleList(
            CrossmodalLayer(width, heads, attention_dropout, relu_dropout, residual_dropout) for _ in range(levels)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        steps: Float[Tensor, "batch query width"],
        source: Float[Tensor, "batch key width"] | None,
        allowed: Bool[Tensor, "batch query key"],
    ) -> Float[Tensor, "batch query width"]:
        steps = self.dropout(steps)
        pair = None if source is None else (self.dropout(source), self.dropout(source))
        for layer in self.layers:
            steps = layer(steps, pair, allowed)
        out: Tensor = self.norm(steps)
        return out


def attendable(
    asking: Int[Tensor, " batch"], asked: Int[Tensor, " batch"], queries: int, keys: int, causal: bool
) -> Bool[Tensor, "batch {queries} {keys}"]:
    """Compute which steps of a padded sequence the steps of another may attend to.

    Args:
        asking: Length of each sequence that asks, at least 1.
        asked: Length of each sequence that is asked, at least 1; the padding after it is not attended to.
        queries: Steps Q that the asking sequences are padded to.
        keys: Steps K that the asked sequences are padded to.
        causal: Whether step q sees no step after ``q + |length - length|``. The difference of the lengths is an offset
            whichever sequence is longer, as in the reference.

    Example:
        >>> attendable(torch.tensor([2]), torch.tensor([3]), 2, 3, causal=True).int().tolist()
        [[[1, 1, 0], [1, 1, 1]]]
    """
    step = torch.arange(keys, device=asked.device)
    allowed = (step < asked.unsqueeze(1)).unsqueeze(1).expand(-1, queries, -1)
    if not causal:
        return allowed
    latest = torch.arange(queries, device=asked.device) + (asking - asked).abs().unsqueeze(1)
    return allowed & (step <= latest.unsqueeze(2))


def embed(
    steps: Float[Tensor, "batch time width"], placed: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time width"]:
    """Multiply the steps by ``sqrt(D)`` and add the position of those that are ``placed``."""
    positions = sinusoids(steps.shape[1], steps.shape[2], steps.device).to(steps.dtype)
    return math.sqrt(steps.shape[2]) * steps + torch.where(placed.unsqueeze(2), positions, 0.0)


def sinusoids(steps: int, width: int, device: torch.device | None = None) -> Float[Tensor, "{steps} {width}"]:
    """Compute sines, then cosines of the numbers 1 to T; an odd width ends in a column of zeros.

    Example:
        >>> sinusoids(2, 4)[:, 0]  # sin(1), sin(2)
        tensor([0.8415, 0.9093])

    Reference:
        Vaswani et al., arXiv 1706.03762, section 3.5, with the frequencies of tensor2tensor.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=device) * (-math.log(10000.0) / max(half - 1, 1)))
    angles = torch.arange(1, steps + 1, device=device).unsqueeze(1) * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))
