"""One step of read-only prompts through a block of a transformer, with the block's own weights.

Prompts are the queries, the frozen tokens are keys and values: ``R' = R + Attend(R, X)``, then the perceptron of the
block. Nothing attends to a prompt, not even another prompt.

Shapes: B samples, L tokens, P prompts, D width of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mm.models.sequence_fusion import TransformerBlock

Step = Callable[[Any, Tensor, Tensor, Any], Tensor]
"""``(block, prompts [B, P, D], tokens [B, L, D], mask) -> [B, P, D]``; the mask is the block's own argument."""


@dataclass(frozen=True)
class BlockForm:
    """How blocks of one library are read.

    Args:
        fits: Whether a module is such a block.
        mask: The name of the argument that says which tokens count, and its position.
        step: One step of prompts.
    """

    fits: Callable[[nn.Module], bool]
    mask: tuple[str, int]
    step: Step


def _torch(block: Any, prompts: Tensor, tokens: Tensor, padding: Tensor | None) -> Tensor:
    """``nn.TransformerEncoderLayer``, norm before or after."""

    def attend(queries: Tensor, keys: Tensor) -> Tensor:
        batch_first = block.self_attn.batch_first
        asked = queries if batch_first else queries.transpose(0, 1)  # tokens are in the block's own layout
        mixed = block.self_attn(asked, keys, keys, key_padding_mask=padding, need_weights=False)[0]
        found: Tensor = block.dropout1(mixed if batch_first else mixed.transpose(0, 1))
        return found

    def expand(values: Tensor) -> Tensor:
        hidden = block.dropout(block.activation(block.linear1(values)))
        found: Tensor = block.dropout2(block.linear2(hidden))
        return found

    if block.norm_first:
        prompts = prompts + attend(block.norm1(prompts), block.norm1(tokens))
        return prompts + expand(block.norm2(prompts))
    prompts = block.norm1(prompts + attend(prompts, tokens))
    after: Tensor = block.norm2(prompts + expand(prompts))
    return after


def _ours(block: TransformerBlock, prompts: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
    """The blocks of :class:`~lightning_mm.models.SequenceFusionTransformer`."""
    keys = block.norm_attention(tokens)
    mixed = block.attention(block.norm_attention(prompts), keys, keys, valid.unsqueeze(1))
    prompts = prompts + block.dropout(mixed)
    expanded = block.dropout(F.gelu(block.expand(block.norm_expansion(prompts))))
    return prompts + block.dropout(block.contract(expanded))


def _timm(block: Any, prompts: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """``timm.models.vision_transformer.Block``."""
    attention = block.attn
    asked = block.norm1(prompts)
    query, key, value = (
        part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for part in (attention.qkv(asked).chunk(3, 2)[0], *attention.qkv(block.norm1(tokens)).chunk(3, 2)[1:])
    )
    mixed = F.scaled_dot_product_attention(attention.q_norm(query), attention.k_norm(key), value, attn_mask=mask)
    mixed = attention.norm(mixed.transpose(1, 2).flatten(2)) if hasattr(attention, "norm") else _merged(mixed)
    prompts = prompts + block.ls1(attention.proj(mixed))
    after: Tensor = prompts + block.ls2(block.mlp(block.norm2(prompts)))
    return after


def _vit(block: Any, prompts: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """``ViTLayer`` of transformers."""
    attention = block.attention
    asked, keys = block.layernorm_before(prompts), block.layernorm_before(tokens)
    mixed = _attend(
        attention.num_attention_heads,
        attention.q_proj(asked),
        attention.k_proj(keys),
        attention.v_proj(keys),
        mask,
    )
    prompts = prompts + attention.o_proj(mixed)
    after: Tensor = prompts + block.mlp(block.layernorm_after(prompts))
    return after


def _bert(block: Any, prompts: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """``BertLayer`` of transformers."""
    own = block.attention.self
    mixed = _attend(own.num_attention_heads, own.query(prompts), own.key(tokens), own.value(tokens), mask)
    prompts = block.attention.output(mixed, prompts)
    after: Tensor = block.output(block.intermediate(prompts), prompts)
    return after


def _attend(heads: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    if mask is not None and mask.ndim == 4:  # [B, 1, L or 1, L]: the same for all that ask
        mask = mask[:, :, :1]
    return _merged(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


def _merged(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


def _has(*names: str) -> Callable[[nn.Module], bool]:
    """Whether a module has these parts; so that no library is imported which the user does not have."""

    def fits(module: nn.Module) -> bool:
        parts = dict(module.named_modules())
        return all(name in parts for name in names)

    return fits


FORMS: tuple[BlockForm, ...] = (
    BlockForm(lambda block: isinstance(block, nn.TransformerEncoderLayer), ("src_key_padding_mask", 2), _torch),
    BlockForm(lambda block: isinstance(block, TransformerBlock), ("valid", 1), _ours),
    BlockForm(_has("norm1", "attn.qkv", "attn.q_norm", "ls1", "norm2", "mlp", "ls2"), ("attn_mask", 1), _timm),
    BlockForm(_has("layernorm_before", "attention.q_proj", "attention.o_proj", "mlp"), ("attention_mask", 1), _vit),
    BlockForm(_has("attention.self.query", "attention.output", "intermediate", "output"), ("attention_mask", 1), _bert),
)  # fmt: skip
KNOWN = "nn.TransformerEncoderLayer, our TransformerBlock, Block of timm, ViTLayer and BertLayer of transformers"
"""For messages."""


def form_of(block: nn.Module) -> BlockForm | None:
    """How a block is read; None if it is of an unknown form."""
    return next((form for form in FORMS if form.fits(block)), None)


@dataclass(frozen=True)
class BlockInput:
    """What a block was called with.

    Args:
        tokens: ``Float[B, L, D]``; ``[L, B, D]`` if ``time_first``.
        mask: Its argument that says which tokens count, in its own form; None if there was none.
        time_first: Whether the first axis is that of tokens (``nn.TransformerEncoderLayer(batch_first=False)``).
    """

    tokens: Tensor
    mask: Any = None
    time_first: bool = False

    @property
    def size(self) -> int:
        """The number of samples B."""
        return self.tokens.shape[1 if self.time_first else 0]


def input_of(form: BlockForm, block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> BlockInput:
    """What a call of a block shows; masks between tokens (causal ones) are not for prompts, which come after all."""
    tokens = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
    name, place = form.mask
    mask = kwargs.get(name, args[place] if len(args) > place else None)
    time_first = isinstance(block, nn.TransformerEncoderLayer) and not block.self_attn.batch_first
    return BlockInput(tokens, mask if isinstance(mask, Tensor) else None, time_first)
