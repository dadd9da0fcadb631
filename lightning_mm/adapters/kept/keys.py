"""Keys of samples by what an encoder gets of them, so that nothing has to be known of data sets, splits and fills.

Shapes: B samples.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from lightning_mm.adapters.network.inputs import Call
from lightning_mm.tree import leaves_of

KEY_BYTES = 16
PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


def sample_keys(call: Call) -> list[bytes] | None:
    """Return a key for each sample in a call of an encoder; equal keys mean equal inputs, bit for bit.

    A key also depends on what outputs are rounded by: whether gradients are computed, autocast, and the device.

    Args:
        call: ``(args, kwargs)`` of the encoder.

    Returns:
        B keys; None if the call holds anything but dense tensors ``[B, ...]`` and plain values.

    Example:
        >>> one, other, again = sample_keys(((torch.tensor([[1.0], [2.0], [1.0]]),), {}))
        >>> one == again, one == other
        (True, False)
    """
    leaves = leaves_of(call)
    tensors = [leaf for _, leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors or not tensors[0].ndim:
        return None
    size = len(tensors[0])
    form: list[tuple[Any, ...]] = []
    for path, leaf in leaves:
        if not isinstance(leaf, Tensor):
            if type(leaf) not in PLAIN:
                return None
            form.append((path, leaf))
        elif leaf.layout != torch.strided or leaf.is_nested or leaf.is_quantized or leaf.shape[:1] != (size,):
            return None
        else:
            form.append((path, leaf.dtype, tuple(leaf.shape[1:])))
    device = tensors[0].device.type
    cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    start = hashlib.sha256(repr((form, device, cast, torch.is_grad_enabled())).encode())
    digests = [start.copy() for _ in range(size)]
    for tensor in tensors:
        if not tensor.numel():
            continue
        rows = tensor.detach().cpu().contiguous().view(size, -1).view(torch.uint8).numpy()
        for digest, row in zip(digests, rows):
            digest.update(row.data)
    return [digest.digest()[:KEY_BYTES] for digest in digests]
