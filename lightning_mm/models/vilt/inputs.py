"""What ViLT reads: texts as ids of words, images as patches with positions that fit their size.

Shapes: B samples, L words, H x W pixels, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.fills import Nest
from lightning_mm.models.inputs import check_floating

_IMAGE_FORMS = '[batch, 3, height, width] or {"pixel_values": that, "pixel_mask": [batch, height, width]}'
_TEXT_FORM = '{"input_ids": [batch, words], "attention_mask": [batch, words]} of integers'


def read_text(text: Nest, longest: int) -> tuple[Tensor, Bool[Tensor, "batch words"], Tensor | None]:
    """Read ids ``Int[B, L]``, which words count, and the types of the words if given.

    Raises:
        LightningMMError: If it is not such a text, or one of more than ``longest`` words.
    """
    ids = text.get("input_ids") if isinstance(text, Mapping) else None
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        got = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else _kind(text)
        raise LightningMMError(f"modality 'text': expected {_TEXT_FORM}, got {got}")
    if ids.shape[1] > longest:
        raise LightningMMError(
            f"modality 'text': at most {longest} words, got {ids.shape[1]}; shorten the texts or set max_text_length"
        )
    mask, types = text.get("attention_mask"), text.get("token_type_ids")
    for leaf in (mask, types):
        if leaf is not None and leaf.shape != ids.shape:
            raise LightningMMError(
                f"modality 'text': expected {_TEXT_FORM}, got {tuple(ids.shape)} and {tuple(leaf.shape)}"
            )
    return ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask != 0, types


def read_image(image: Nest, patch: int) -> tuple[Tensor, Bool[Tensor, "batch rows columns"] | None]:
    """Read pixels ``Float[B, 3, H, W]`` and which patches count, None if all do.

    Raises:
        LightningMMError: If it is not such an image, or its sides are no multiples of ``patch``.
    """
    pixels, mask = image, None
    if isinstance(image, Mapping):
        pixels, mask = image.get("pixel_values"), image.get("pixel_mask")
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] != 3:
        got = tuple(pixels.shape) if isinstance(pixels, Tensor) else _kind(image)
        raise LightningMMError(f"modality 'image': expected {_IMAGE_FORMS}, got {got}")
    check_floating(pixels)
    batch, _, height, width = pixels.shape
    if height % patch or width % patch or not height or not width:
        raise LightningMMError(
            f"modality 'image': height and width must be multiples of the patch size {patch}, got {height} x {width}; "
            "resize or pad"
        )
    if mask is None:
        return pixels, None
    if mask.shape != (batch, height, width):
        raise LightningMMError(f"modality 'image': expected {_IMAGE_FORMS}, got a mask of shape {tuple(mask.shape)}")
    return pixels, mask[:, ::patch, ::patch] != 0  # the upper left pixel of each patch, as nearest resizing takes


def stretched(
    square: Float[Tensor, "grid grid channel"],
    heights: Int[Tensor, " any"],
    widths: Int[Tensor, " any"],
    rows: int,
    columns: int,
) -> Float[Tensor, "any patch channel"]:
    """Stretch a square of positions over the first ``heights`` x ``widths`` patches of each image.

    The same as ``interpolate(..., mode="bilinear", align_corners=True)`` for each image on its own; positions beyond
    them are ignored.
    """
    with torch.autocast(square.device.type, enabled=False):
        down = _linear(heights, rows, square.shape[0]).to(square)
        across = _linear(widths, columns, square.shape[0]).to(square)
        return torch.einsum("bip,bjq,pqc->bijc", down, across, square).flatten(1, 2)


def _linear(counts: Int[Tensor, " any"], size: int, grid: int) -> Float[Tensor, "any {size} {grid}"]:
    """Weights that interpolate ``grid`` entries to the first ``counts`` of ``size`` places, ends on ends."""
    step = (grid - 1) / (counts - 1).clamp(min=1)
    at = torch.arange(size, device=counts.device) * step[:, None]
    return (1 - (at[..., None] - torch.arange(grid, device=counts.device)).abs()).clamp(min=0)


def _kind(value: Nest) -> str:
    return f"a dict of {list(value)}" if isinstance(value, Mapping) else type(value).__name__
