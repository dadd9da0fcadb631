"""Read-only prompts and queries: learned vectors that read a frozen encoder and change nothing in it.

Shapes: B samples, L tokens, P prompts, D width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError, check_whole
from lightning_mm.models.attention import Attention
from lightning_mm.models.embedding_prediction.blocks import KNOWN, BlockInput, form_of


class ReadOnlyPrompts(nn.Module):
    """Prompts that pass through all blocks of a transformer beside its tokens, in a stream of their own.

    In each block they are the queries, and the tokens that the block got are keys and values; weights are those of the
    block. Nothing attends to a prompt, not even another prompt, so they may be run apart: the stream of the tokens is
    that of the encoder alone, to the bit, and needs no gradient. One sequence with a mask is equal up to rounding
    only, as the sizes of the matrix products change.

    Own reconstruction of a part of arXiv 2407.12616, from the released code of RPO, which it is built on. Chosen by us:
    the two streams.

    Args:
        blocks: The blocks of the encoder; they are not owned, and not in the ``state_dict``.
        width: Width D of the tokens.
        prompts: Number P of prompts, 0 for none.
        norm: The norm after the last block, not owned; none by default.
        start: The token that the prompts start from, ``Float[D]``, such as that of the class; zeros by default.

    Shape:
        What each block was called with -> ``Float[B, P, D]``.

    Raises:
        LightningMMError: If a block is of an unknown form.

    Reference:
        Lee et al., "Read-only Prompt Optimization for Vision-Language Few-shot Learning", arXiv 2308.14960.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        width: int,
        prompts: int = 4,
        norm: nn.Module | None = None,
        start: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_whole("prompts", prompts, 0)
        forms = [form_of(block) for block in blocks]
        unknown = [type(block).__name__ for block, form in zip(blocks, forms) if form is None]
        if unknown or not forms:
            raise LightningMMError(
                f"ReadOnlyPrompts cannot read {unknown[0] if unknown else 'an encoder without blocks'}; it knows "
                f"{KNOWN}; read the output of another part with `read`, which takes ReadOnlyQueries"
            )
        self.forms = [form for form in forms if form is not None]
        self._borrowed = (tuple(blocks), norm)  # in a tuple, so that they are not registered a second time
        self.width = width
        origin = torch.zeros(width) if start is None else start.detach().float().reshape(width)
        self.prompts = nn.Parameter(origin + 0.1 * F.normalize(torch.randn(prompts, width), dim=1))

    def forward(self, inputs: Sequence[BlockInput]) -> Float[Tensor, "batch prompt {self.width}"]:
        """Prompts after the last block, and its norm."""
        blocks, norm = self._borrowed
        prompts = self.prompts.to(inputs[0].tokens.dtype).expand(inputs[0].size, -1, -1)
        for block, form, given in zip(blocks, self.forms, inputs):
            prompts = form.step(block, prompts, given.tokens, given.mask)
        after: Tensor = prompts if norm is None else norm(prompts)
        return after


class ReadOnlyQueries(nn.Module):
    """Learned queries that attend once over the features of an encoder without tokens.

    Chosen by us for arXiv 2407.12616, which has transformers only: one attention layer over the last feature map, or
    over the vector of the encoder as a single token, of which each query is a linear map.

    Args:
        width: Channels D of the features.
        queries: Number P of queries.

    Shape:
        ``Float[B, L, D]`` and ``Bool[B, L]`` -> ``Float[B, P, D]``.
    """

    def __init__(self, width: int, queries: int = 4) -> None:
        super().__init__()
        check_whole("queries", queries, 1)
        self.width = width
        self.queries = nn.Parameter(F.normalize(torch.randn(queries, width), dim=1))
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads=4 if width % 4 == 0 else 1, dropout=0.0)

    def forward(
        self, features: Float[Tensor, "batch token {self.width}"], valid: Bool[Tensor, "batch token"] | None = None
    ) -> Float[Tensor, "batch query {self.width}"]:
        allowed = features.new_ones(features.shape[:2], dtype=torch.bool) if valid is None else valid
        asked = self.queries.to(features.dtype).expand(features.shape[0], -1, -1)
        # values without a norm: their scale says something
        found: Tensor = self.attention(asked, self.norm(features), features, allowed.unsqueeze(1))
        return found
