"""What the samples of a batch observed.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_mm.errors import LightningMMError
from lightning_mm.modalities import Modalities


def observed_of(batch: Mapping[str, Any], size: int, modalities: Modalities) -> Tensor | None:
    """What the samples of a batch observed, ``Bool[B, M]``.

    It is ``observed``, else ``available``, its lower bound: a loader that only has this one marks gaps with it. None
    if the batch has neither.

    Raises:
        LightningMMError: If it has another shape, or values that are neither true nor false.
    """
    name = next((name for name in ("observed", "available") if batch.get(name) is not None), None)
    if name is None:
        return None
    given = batch[name]
    try:
        mask = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):  # texts, ragged lists
        mask = None
    if mask is None or mask.shape != (size, len(modalities)):
        came = f"a {type(given).__name__}" if mask is None else tuple(mask.shape)
        raise LightningMMError(
            f"expected `{name}` Bool[{size}, {len(modalities)}] for modalities {list(modalities)}, got {came}"
        )
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise LightningMMError(f"expected `{name}` Bool[{size}, {len(modalities)}], got numbers other than 0 and 1")
    return mask.bool()
