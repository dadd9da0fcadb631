"""How the parts of MulT are called here and in its released weights.

The released code holds the weights of query, key and value as one, and those of a projection as a convolution's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.models.released_weights import check_fit, unwrap

LETTERS = {"text": "l", "audio": "a", "vision": "v"}
_OUTSIDE = {"fusion_in": "proj1", "fusion_out": "proj2", "head": "out_layer"}
_LAYER = {
    "attention.out": "self_attn.out_proj",
    "norm_attention": "layer_norms.0",
    "norm_expansion": "layer_norms.1",
    "expand": "fc1",
    "contract": "fc2",
}
_FUSED = ("attention.query", "attention.key", "attention.value")
_WAY_OUT = (
    "take the state_dict of MULTModel of github.com/yaohungt/Multimodal-Transformer with all three modalities, and set "
    "widths, num_outputs, dim and levels as it was trained"
)
_BUFFERS = {"version": 2.0, "embed_positions._float_tensor": 0.0}
"""Buffers of every encoder of the released code, which change no output, and what they may hold."""


def from_reference(given: Mapping[str, Any], own: Mapping[str, Tensor], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Convert weights of the released code to our names.

    Args:
        given: ``state_dict`` of the released code, see :meth:`MulT.load_reference`.
        own: ``state_dict`` of the network that they are for; only its keys and shapes count.
        modalities: Of that network.

    Raises:
        LightningMMError: If a key is missing, left over or of another shape.
    """
    expected, state = (
        {key: value for key, value in weights.items() if not _is_buffer(key)}
        for weights in (to_reference(own, modalities), unwrap(given))
    )
    check_fit(expected, state, "released weights", "MulT", _WAY_OUT)
    converted = {}
    for name, like in own.items():
        key, third = reference_key(name)
        tensor = state[key] if third is None else state[key].chunk(3)[third]
        converted[name] = tensor.reshape(like.shape)
    return converted


def to_reference(own: Mapping[str, Tensor], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Convert our weights to the names of the released code; the arguments are as for :func:`from_reference`."""
    if set(modalities) != set(LETTERS):
        raise LightningMMError(
            f"the released code of MulT has the modalities {list(LETTERS)}, this network has {list(modalities)}"
        )
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in own.items():
        key, _ = reference_key(name)  # query, key and value follow one another in our state_dict
        parts.setdefault(key, []).append(tensor.unsqueeze(2) if name.startswith("projections.") else tensor)
    state = {key: torch.cat(tensors) if len(tensors) > 1 else tensors[0].clone() for key, tensors in parts.items()}
    for prefix in dict.fromkeys(key.split(".")[0] for key in state if key.startswith("trans_")):
        state |= {f"{prefix}.{buffer}": torch.tensor([value]) for buffer, value in _BUFFERS.items()}
    return state


def reference_key(name: str) -> tuple[str, int | None]:
    """Give the key of the released code for one of ours, and which third of its rows is meant, None for all.

    Example:
        >>> reference_key("crossmodal.text.audio.layers.0.attention.key.bias")
        ('trans_l_with_a.layers.0.self_attn.in_proj_bias', 1)
    """
    part, *inside = name.split(".")
    if part in _OUTSIDE:
        return ".".join([_OUTSIDE[part], *inside]), None
    if part == "projections":
        return f"proj_{LETTERS[inside[0]]}.weight", None
    if part == "memories":
        prefix, inside = f"trans_{LETTERS[inside[0]]}_mem", inside[1:]
    else:
        prefix, inside = f"trans_{LETTERS[inside[0]]}_with_{LETTERS[inside[1]]}", inside[2:]
    if inside[0] == "norm":
        return f"{prefix}.layer_norm.{inside[1]}", None
    _, level, *layer, entry = inside
    if ".".join(layer) in _FUSED:
        return f"{prefix}.layers.{level}.self_attn.in_proj_{entry}", _FUSED.index(".".join(layer))
    return f"{prefix}.layers.{level}.{_LAYER['.'.join(layer)]}.{entry}", None


def _is_buffer(key: str) -> bool:
    prefix, _, rest = key.partition(".")
    return prefix.startswith("trans_") and rest in _BUFFERS
