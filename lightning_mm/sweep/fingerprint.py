"""Digests of the samples that a sweep sees, whatever the batches, processes and devices.

Shapes: B samples in a batch, N in the split, M modalities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_mm.provenance import DataFingerprint
from lightning_mm.tree import dotted, is_column, leaves_of, rows_of

DIGEST = 16
"""Bytes of the digest of one target."""


def target_digests(target: Any, size: int) -> UInt8[Tensor, "batch 16"]:
    """Digest the target of every sample of a batch.

    Integers count as int64, other numbers as float32, whatever the device and precision; of padded sequences (a leaf
    next to ``length``) zeros behind the end of the sample do not count, nor do leaves without a row per sample.

    Args:
        target: A nest with one row per sample.
        size: Number of samples B.

    Shape:
        ``UInt8[B, 16]``.
    """
    leaves = {path: leaf for path, leaf in leaves_of(target, is_column) if rows_of(leaf) == size}
    lengths = {path[:-1]: _plain(leaf) for path, leaf in leaves.items() if path and path[-1] == "length"}
    hashes = [hashlib.blake2b(digest_size=DIGEST) for _ in range(size)]
    for path, leaf in leaves.items():
        begin = dotted(path)
        rows = (
            leaf if isinstance(leaf, (list, tuple)) else _rows(_plain(leaf), lengths.get(path[:-1]) if path else None)
        )
        for own, row in zip(hashes, rows):
            if isinstance(row, np.ndarray):
                own.update(f"{begin}{row.shape}".encode())
                own.update(np.ascontiguousarray(row).tobytes())
            else:
                own.update(f"{begin}{row!r}".encode())
    found = np.frombuffer(b"".join(own.digest() for own in hashes), np.uint8).reshape(size, DIGEST)
    return torch.from_numpy(found.copy())


def fingerprint_of(
    modalities: Sequence[str],
    index: Int[Tensor, " sample"],
    observed: Bool[Tensor, "sample modality"],
    targets: UInt8[Tensor, "sample 16"],
) -> DataFingerprint:
    """Digest all samples of a split, ordered by index.

    Args:
        modalities: The columns of ``observed``.
        index: Positions in the data set, ``Int[N]``.
        observed: ``Bool[N, M]``.
        targets: Of :func:`target_digests`, ``UInt8[N, 16]``.
    """
    positions = index.cpu().numpy().astype("<i8").tobytes()
    samples = hashlib.sha256(positions + targets.cpu().numpy().tobytes()).hexdigest()
    columns = observed.cpu().numpy().astype(np.uint8)
    return DataFingerprint(
        samples,
        {
            name: hashlib.sha256(positions + np.ascontiguousarray(columns[:, place]).tobytes()).hexdigest()
            for place, name in enumerate(modalities)
        },
    )


def _rows(values: NDArray[Any], length: NDArray[Any] | None) -> list[NDArray[Any]]:
    """The row of every sample, without the padding behind its end if it is that of a sequence.

    Whether a leaf is one, no single batch can say: its width may be that of the longest sequence by chance. Zeros
    behind the end are no content of either kind, however many there are.
    """
    rows = [np.asarray(row) for row in values]
    if length is None or length.ndim != 1 or values.ndim < 2 or values.dtype.kind not in "iufb":
        return rows
    return [row[: max(int(own), _filled(row))] for row, own in zip(rows, length)]


def _filled(row: NDArray[Any]) -> int:
    """Number of steps up to the last one that is not zero."""
    steps = np.flatnonzero(row.reshape(len(row), -1).any(axis=1)) if row.size else np.zeros(0)
    return 0 if not len(steps) else int(steps[-1]) + 1


def _plain(leaf: Any) -> NDArray[Any]:
    """A tensor or array on the CPU, as int64 or float32 of this machine's byte order written little-endian."""
    array = leaf.detach().cpu().float().numpy() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
    array = np.asarray(array.detach().cpu().numpy() if isinstance(array, Tensor) else array)
    if array.dtype.kind in "iub":
        return array.astype("<i8")
    return array.astype("<f4") if array.dtype.kind == "f" else array
