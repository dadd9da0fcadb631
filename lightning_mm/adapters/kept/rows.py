"""The kept outputs of one encoder, by the keys of their samples, in memory or in files.

Shapes: B samples, N kept at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.kept.files import new_parts, write_part
from lightning_mm.adapters.saving.fingerprint import fingerprint

OVERHEAD = 256
"""Bytes that a sample takes in memory apart from its output."""
PENDING = 2**28
"""Bytes that wait in memory before a file is written."""

Place = tuple[list[Tensor], int]
"""Tensors ``[N, ...]`` that hold the output of a sample, and its row."""


@dataclass
class Space:
    """What the outputs of all encoders together may take.

    Args:
        limit: Bytes.
        used: Bytes in use.
        full: Whether something did not fit.
    """

    limit: float
    used: float = 0.0
    full: bool = False

    def take(self, size: float) -> bool:
        """Reserve bytes; False if they are not left."""
        if self.used + size > self.limit:
            self.full = True
            return False
        self.used += size
        return True


class KeptRows:
    """Outputs of one encoder by the keys of their samples; a copy or a pickle keeps nothing.

    Args:
        space: What may be used, shared with other encoders.
        folder: Where files are; None for memory.
    """

    def __init__(self, space: Space, folder: Path | None = None) -> None:
        self.space, self.folder = space, folder
        self.places: dict[bytes, Place] = {}
        self.bytes_per_sample = 0.0
        self._pending: list[tuple[list[bytes], list[Tensor]]] = []
        self._pending_size = 0
        self._taken = 0.0
        self._read: set[str] = set()
        self.refresh()

    def add(self, keys: Sequence[bytes], leaves: Sequence[Tensor]) -> None:
        """Keep outputs, if there is space for them.

        Args:
            keys: N keys that are not kept yet.
            leaves: The tensors of the output, ``[N, ...]``; copied.
        """
        size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        self.bytes_per_sample = size / len(keys) + OVERHEAD
        taken = self.bytes_per_sample * len(keys)
        if not self.space.take(taken):
            return
        self._taken += taken
        rows = [leaf.detach().to("cpu", copy=True).contiguous() for leaf in leaves]
        self._place(keys, rows)
        if self.folder is not None:
            self._pending.append((list(keys), rows))
            self._pending_size += size
            if self._pending_size >= PENDING:
                self.flush()

    def flush(self) -> None:
        """Write what waits in memory to files, each of them as a whole, and read it from there."""
        if self.folder is None:
            return  # all stays in memory
        forms: dict[Any, list[tuple[list[bytes], list[Tensor]]]] = {}
        for keys, rows in self._pending:
            forms.setdefault(tuple((one.dtype, one.shape[1:]) for one in rows), []).append((keys, rows))
        for parts in forms.values():
            keys = [key for some, _ in parts for key in some]
            write_part(self.folder, keys, [torch.cat(leaves) for leaves in zip(*(rows for _, rows in parts))])
        self._pending, self._pending_size = [], 0
        self.refresh()

    def refresh(self) -> None:
        """Read the files that were written since, by this process and by others."""
        if self.folder is not None:
            for name, keys, rows in new_parts(self.folder, self._read):
                self._read.add(name)
                self._place(keys, rows)

    def clear(self) -> None:
        """Forget everything, and leave its memory to the others; files stay."""
        if self.folder is None:
            self.space.used -= self._taken
        self.places, self._pending, self._pending_size, self._taken = {}, [], 0, 0.0

    def _place(self, keys: Sequence[bytes], rows: list[Tensor]) -> None:
        self.places.update((key, (rows, row)) for row, key in enumerate(keys))

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptRows:
        return KeptRows(Space(0))

    def __reduce__(self) -> tuple[type[KeptRows], tuple[Space]]:
        return KeptRows, (Space(0),)


def folder_of(where: Path, name: str, encoder: nn.Module) -> Path:
    """Return the folder for the outputs of an encoder: another one for other weights, layers or versions of torch."""
    about = f"{type(encoder).__module__}.{type(encoder).__qualname__} {encoder} {torch.__version__}"
    digest = hashlib.blake2b(f"{fingerprint(encoder)} {about}".encode(), digest_size=8).hexdigest()
    return where / f"{name or 'network'}-{digest}"
