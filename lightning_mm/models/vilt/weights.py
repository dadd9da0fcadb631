"""How the parts of ViLT are called in its released weights and in ``transformers.ViltModel``.

Reference: the ``state_dict`` of the Lightning checkpoints of github.com/dandelin/ViLT; its keys have no prefix.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mm.errors import LightningMMError

TEXT_POSITIONS = "text_embeddings.position_embeddings.weight"
"""The reference's key of the positions of text."""

HEADS = ("mlm_score", "itm_score", "mpp_score", "rank_output")
"""Heads of the tasks of pre-training and retrieval; those of classification are called ``<task>_classifier``."""

_CLASSIFIER = "_classifier"
_BLOCK, _LAYER = "transformer.blocks.", "encoder.layer."
_THIRDS = ("query", "key", "value")
_PARTS = {
    "text_embeddings": "embeddings.text_embeddings",
    "token_type_embeddings": "embeddings.token_type_embeddings",
    "transformer.cls_token": "embeddings.cls_token",
    "transformer.pos_embed": "embeddings.position_embeddings",
    "transformer.patch_embed.proj": "embeddings.patch_embeddings.projection",
    "transformer.norm": "layernorm",
    "pooler": "pooler",
}
"""Beginnings of keys outside of the blocks, the reference's and those of transformers."""
_IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""The same inside of a block, all but the fused ``attn.qkv``."""


def from_reference(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Convert released weights to those of ``transformers.ViltModel``, and those of each head by its name.

    Args:
        state: Reference key to tensor; each fused ``attn.qkv`` is split into query, key and value.

    Returns:
        Weights under the names of transformers, and head to its own (``{"vqa_classifier": {"0.weight": ...}}``).

    Raises:
        LightningMMError: If a key is not in the reference.
    """
    renamed: dict[str, Tensor] = {}
    heads: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if key == "text_embeddings.position_ids":
            continue  # a counter that older versions saved with the weights
        if part in HEADS or is_classifier(part):
            heads.setdefault(part, {})[rest] = value
        elif ".attn.qkv." in key and key.startswith(_BLOCK) and value.shape[0] % 3 == 0:
            number, _, entry = key.removeprefix(_BLOCK).partition(".attn.qkv.")
            names = [f"{_LAYER}{number}.attention.attention.{third}.{entry}" for third in _THIRDS]
            renamed.update(zip(names, value.chunk(3)))
        else:
            name = _renamed(key, _PARTS, _IN_BLOCK, _BLOCK, _LAYER)
            if name is None:
                unknown.append(key)
            else:
                renamed[name] = value
    if unknown:
        raise LightningMMError(
            f"the state_dict has {len(unknown)} keys that the reference ViLT does not have: {unknown[:3]}; expected "
            f"keys such as {TEXT_POSITIONS!r} and {_BLOCK + '0.attn.qkv.weight'!r}, without a prefix"
        )
    return renamed, heads


def to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights of ``transformers.ViltModel`` to the reference's keys, query, key and value fused."""
    parts = {new: old for old, new in _PARTS.items()}
    in_block = {new: old for old, new in _IN_BLOCK.items()}
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".attention.attention." in key:
            number, _, rest = key.removeprefix(_LAYER).partition(".attention.attention.")
            third, _, entry = rest.partition(".")
            if third == _THIRDS[0]:
                keys = [f"{_LAYER}{number}.attention.attention.{name}.{entry}" for name in _THIRDS]
                found[f"{_BLOCK}{number}.attn.qkv.{entry}"] = torch.cat([state[name] for name in keys])
            continue
        name = _renamed(key, parts, in_block, _LAYER, _BLOCK)
        if name is None:
            raise LightningMMError(f"{key!r} is no weight of transformers.ViltModel")
        found[name] = value
    return found


def is_classifier(head: str) -> bool:
    """Whether a head is one of classification, by its name."""
    return head.endswith(_CLASSIFIER)


def lengthened(positions: Tensor, length: int) -> Tensor:
    """Bring positions ``Float[P, C]`` to another length: interpolated if longer, the first ones if shorter."""
    if length <= positions.shape[0]:
        return positions[:length]
    return F.interpolate(positions.T.unsqueeze(0).float(), size=length, mode="linear")[0].T.to(positions.dtype)


def _renamed(
    key: str, parts: Mapping[str, str], in_block: Mapping[str, str], block: str, other_block: str
) -> str | None:
    """Replace the beginning of a key by that of the other naming; None if it has none of the known ones."""
    if key.startswith(block):
        number, _, rest = key.removeprefix(block).partition(".")
        inside = _renamed(rest, in_block, {}, "\0", "")
        return f"{other_block}{number}.{inside}" if number.isdigit() and inside else None
    for old, new in parts.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return None
