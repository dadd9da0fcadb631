"""The fingerprint of a network: a hash of the names and values of its weights, buffers and other saved state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_mm.errors import LightningMMError


def fingerprint(network: nn.Module) -> str:
    """Hash the names, shapes, dtypes and values of all weights and buffers of a network.

    Sparse, quantised and nested tensors count by their parts; of other saved state (``get_extra_state``) plain values
    count, and the type of others.

    Raises:
        LightningMMError: If the network has weights without values, on the device ``meta`` or of lazy layers.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(network.state_dict().items()):
        for part in _parts(name, value):
            digest.update(part)
    return digest.hexdigest()


def _parts(name: str, value: Any) -> Iterator[bytes | memoryview]:
    """Yield what is hashed of one entry of a ``state_dict``."""
    if isinstance(value, Tensor):
        yield from _parts_of_tensor(name, value.detach())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _parts(f"{name}/{key}", value[key])
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from _parts(f"{name}/{place}", item)
    elif isinstance(value, (str, bytes, int, float, complex, bool, torch.dtype, torch.device)) or value is None:
        yield f"{name} {value!r}".encode()
    elif isinstance(value, BytesIO):
        yield name.encode() + value.getvalue()
    else:  # its text may hold an address
        yield f"{name} {type(value).__module__}.{type(value).__qualname__}".encode()


def _parts_of_tensor(name: str, tensor: Tensor) -> Iterator[bytes | memoryview]:
    if tensor.is_meta or is_lazy(tensor):
        raise LightningMMError(
            f"the weight {name!r} has no values: it is on the device 'meta', or its layer has not run yet (a lazy "
            "layer); load the weights of the network, or run it once"
        )
    if tensor.is_nested:
        yield from _parts(name, list(tensor.unbind()))
    elif tensor.is_quantized:
        whole = tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        scales = (
            (tensor.q_scale(), tensor.q_zero_point())
            if whole
            else (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points())
        )
        yield from _parts(name, (tensor.int_repr(), *scales))
    elif tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        yield from _parts(name, (list(tensor.shape), tensor.indices(), tensor.values()))
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from _parts(name, (list(tensor.shape), tensor.crow_indices(), tensor.col_indices(), tensor.values()))
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from _parts(name, (list(tensor.shape), tensor.ccol_indices(), tensor.row_indices(), tensor.values()))
    elif hasattr(tensor, "__tensor_flatten__"):  # subclasses made of other tensors, such as those of torchao
        names, _ = tensor.__tensor_flatten__()
        yield from _parts(name, [getattr(tensor, part) for part in names])
    elif tensor.layout == torch.strided:
        yield f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode()
        yield tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    else:
        yield from _parts(name, tensor.to_dense())
