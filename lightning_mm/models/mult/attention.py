"""What a step of one sequence may attend to in another, and the attention over it.

Shapes: B samples, Q steps of the sequence that asks, K steps of the one that is asked, D width of a step.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

_GAIN_OF_FUSED = 0.5**0.5
"""The reference draws query, key and value as one matrix of ``3D`` rows, whose Xavier bound is smaller by this."""


class Attention(nn.Module):
    """Multi-head attention whose four projections are linear layers that run as modules, so that adapters reach them.

    Args:
        width: Width D of the steps, a multiple of ``heads``.
        heads: Attention heads.
        dropout: Probability of dropping an attention weight in training.

    Shape:
        ``[B, Q, D]``, ``[B, K, D]``, ``[B, K, D]``, ``Bool[B, Q, K]`` -> ``[B, Q, D]``; every step that asks needs one
        that it may attend to.

    Reference:
        Vaswani et al., arXiv 1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight, gain=1.0 if layer is self.out else _GAIN_OF_FUSED)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        queries: Float[Tensor, "batch query width"],
        keys: Float[Tensor, "batch key width"],
        values: Float[Tensor, "batch key width"],
        allowed: Bool[Tensor, "batch query key"],
    ) -> Float[Tensor, "batch query width"]:
        query, key, value = (
            layer(steps).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, steps in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed.unsqueeze(1), dropout_p=dropout)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def attendable(
    asking: Int[Tensor, " batch"], asked: Int[Tensor, " batch"], queries: int, keys: int, causal: bool
) -> Bool[Tensor, "batch {queries} {keys}"]:
    """Which steps of a padded sequence the steps of another may attend to.

    Args:
        asking: Length of each sequence that asks, at least 1.
        asked: Length of each sequence that is asked, at least 1; nobody attends to the padding behind.
        queries: Steps Q that the asking sequences are padded to.
        keys: Steps K that the asked sequences are padded to.
        causal: Whether step q sees no step behind ``q + |length - length|``. The difference of the lengths is an offset
            whichever sequence is the longer one, as in the reference.

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
