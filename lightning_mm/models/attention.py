"""Multi-head attention with projections that are modules.

Shapes: B samples, Q steps of the sequence that asks, K steps of the one that is asked, D width of a step.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention with four linear layers as projections, which run as modules, so that adapters reach them.

    Args:
        width: Width D of the steps, a multiple of ``heads``.
        heads: Attention heads.
        dropout: Probability of dropping an attention weight in training.

    Shape:
        ``[B, Q, D]``, ``[B, K, D]``, ``[B, K, D]``, ``Bool[B, Q, K]`` (or ``[B, 1, K]``, for all steps alike) ->
        ``[B, Q, D]``; every step that asks needs one that it may attend to.

    Reference:
        Vaswani et al., arXiv 1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(
        self,
        queries: Float[Tensor, "batch query width"],
        keys: Float[Tensor, "batch key width"],
        values: Float[Tensor, "batch key width"],
        allowed: Bool[Tensor, "batch _ key"],
    ) -> Float[Tensor, "batch query width"]:
        query, key, value = (
            layer(steps).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, steps in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed.unsqueeze(1), dropout_p=dropout)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
