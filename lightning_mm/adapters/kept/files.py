"""Files of kept outputs: each is written once, as a whole, and mapped into memory when it is read.

Shapes: N samples in a file.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lightning_mm.adapters.kept.keys import KEY_BYTES
from lightning_mm.errors import LightningMMError
from lightning_mm.files import write_atomically

FORMAT = "lightning_mm kept outputs 1"
SUFFIX = ".safetensors"


def write_part(folder: Path, keys: Sequence[bytes], leaves: Sequence[Tensor]) -> None:
    """Write the outputs of some samples to a new file, so that several processes may share the folder.

    Args:
        folder: Made if missing.
        keys: N keys.
        leaves: The tensors of the output, ``[N, ...]``.
    """
    tensors = {str(number): leaf for number, leaf in enumerate(leaves)}
    tensors["keys"] = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES)
    write_atomically(folder / f"{secrets.token_hex(8)}{SUFFIX}", save(tensors, metadata={"format": FORMAT}))


def new_parts(folder: Path, known: Collection[str]) -> Iterator[tuple[str, list[bytes], list[Tensor]]]:
    """Read the files of a folder that are not known yet: name, keys, and tensors ``[N, ...]`` that stay in the file.

    Raises:
        LightningMMError: If a file is damaged or of another kind; the message names it.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.name in known:
            continue
        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("format") != FORMAT:
                    raise ValueError(f"expected {FORMAT!r}")
                keys = file.get_tensor("keys")
                leaves = [file.get_tensor(str(number)) for number in range(len(file.keys()) - 1)]
            if keys.ndim != 2 or keys.shape[1] != KEY_BYTES or any(len(leaf) != len(keys) for leaf in leaves):
                raise ValueError("keys and outputs differ in number")
        except Exception as error:  # safetensors reports damage in many ways, depending on where it begins
            raise LightningMMError(
                f"the kept outputs in {path} are damaged or in another format ({error}); remove this file"
            ) from error
        yield path.name, [bytes(row) for row in keys.numpy()], leaves


def bytes_in(folder: Path) -> int:
    """Return the bytes of all kept outputs in a folder and the folders in it."""
    return sum(path.stat().st_size for path in folder.rglob(f"*{SUFFIX}"))
