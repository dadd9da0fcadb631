"""Save the draws of a policy to a file, so that others can evaluate with the same missing modalities.

A table is an ``.npz`` file: ``available`` (``UInt8[N, M]``) and ``header``, a JSON text with all settings that made it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lightning_mm.errors import DataNotFoundError, LightningMMError, check_whole
from lightning_mm.files import write_atomically
from lightning_mm.json_files import parse_json
from lightning_mm.missing.policies import MissingnessPolicy
from lightning_mm.modalities import Modalities

_FORMAT = "lightning_mm table 1"
_WAY_OUT = "write it again with save_table"


def save_table(
    path: str | Path, policy: MissingnessPolicy, modalities: Modalities, size: int, seed: int = 0, epoch: int = 0
) -> dict[str, Any]:
    """Draw ``available`` for samples 0 to ``size - 1`` and write it with a header of all settings.

    Args:
        path: The file, such as ``table.npz``.
        policy: Draws ``available``.
        modalities: Names in the order of the columns.
        size: Number of samples.
        seed: Seed of the draw.
        epoch: Epoch of the draw.

    Returns:
        The header.

    Raises:
        LightningMMError: If ``size`` is not positive.
    """
    check_whole("size of a table", size, 1)
    available = policy.draw(modalities, range(size), epoch=epoch, seed=seed).numpy().astype(np.uint8)
    header = {
        "format": _FORMAT,
        "policy": repr(policy),
        "modalities": list(modalities),
        "size": size,
        "seed": seed,
        "epoch": epoch,
        "crc32": zlib.crc32(available.tobytes()),
    }
    arrays = {"available": available, "header": np.array(json.dumps(header))}
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
    return header


class SavedTable(MissingnessPolicy):
    """Reads ``available`` from a table written by :func:`save_table`; seed and epoch of the run have no effect.

    Args:
        path: The file.

    Raises:
        DataNotFoundError: If the file does not exist.
        LightningMMError: If the file is damaged or not a table; in :meth:`draw`, if the table is for other modalities
            or fewer samples.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._header, self._available = _read(Path(path))

    @property
    def header(self) -> dict[str, Any]:
        """The settings that made the table: policy, modalities, size, seed, epoch."""
        return dict(self._header)

    def draw(
        self, modalities: Modalities, index: Sequence[int] | Int[Tensor, " batch"], *, epoch: int, seed: int
    ) -> Bool[Tensor, "batch modality"]:
        if list(modalities) != self._header["modalities"]:
            raise LightningMMError(
                f"table {self.path} is for modalities {self._header['modalities']}, got {list(modalities)}; "
                "write a table for these modalities, in this order"
            )
        rows = torch.as_tensor(index, dtype=torch.int64)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self._available):
            raise LightningMMError(
                f"table {self.path} holds {len(self._available)} samples, got index {int(rows.max())}; "
                "write a table of the size of the data set"
            )
        return self._available[rows]


def _read(path: Path) -> tuple[dict[str, Any], Bool[Tensor, "sample modality"]]:
    if not path.is_file():
        raise DataNotFoundError(
            f"no table of missing modalities at {path}; write one with lightning_mm.missing.save_table"
        )
    from lightning_mm.schemas.base import check
    from lightning_mm.schemas.table import TableState

    try:
        # opened here, since NumPy leaves a damaged file open
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            available = file["available"]
            header = parse_json(str(file["header"]))
    except Exception as error:  # any byte may be wrong: the archive, an array in it, or the header
        raise LightningMMError(f"{path} is not a table written by lightning_mm.missing.save_table: {error}") from error
    check_crc = header.get("crc32") if isinstance(header, dict) and header.get("format") == _FORMAT else None
    if check_crc != zlib.crc32(available.tobytes()):
        raise LightningMMError(f"table {path} is damaged or of another version; {_WAY_OUT}")
    state = check(TableState, header, f"table {path}", _WAY_OUT)
    if available.shape != (state.size, len(state.modalities)) or available.dtype != np.uint8 or available.max() > 1:
        raise LightningMMError(
            f"table {path} is damaged (available: expected UInt8[{state.size}, {len(state.modalities)}] of 0 and 1, "
            f"got {available.dtype} {available.shape}); {_WAY_OUT}"
        )
    return header, torch.from_numpy(available.astype(bool))
