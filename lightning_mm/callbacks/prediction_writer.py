"""Write the predictions of each batch to disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from lightning_mm.files import write_atomically
from lightning_mm.tree import dotted, is_column, leaves_of


class PredictionWriter(Callback):
    """Writes one ``.npz`` per batch with ``index`` (B), ``available`` (B, M) and ``prediction`` (B, ...).

    A nest of predictions becomes several arrays, named by their paths: ``prediction.start``, ``prediction.0``.
    Files are named ``batch-000000-rank0.npz``; with several predict loaders ``loader1-batch-000000-rank0.npz``.

    Args:
        folder: The folder of the files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        nest = outputs if isinstance(outputs, Mapping) else {"prediction": outputs}
        leaves = {dotted(path): leaf for path, leaf in leaves_of(nest, is_column) if leaf is not None}
        arrays = {name: _as_array(leaf) for name, leaf in leaves.items()}
        several = len(trainer.num_predict_batches) > 1
        loader = f"loader{dataloader_idx}-" if several else ""
        place = self.folder / f"{loader}batch-{batch_idx:06d}-rank{trainer.global_rank}.npz"
        write_atomically(place, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def _as_array(leaf: Any) -> NDArray[Any]:
    if isinstance(leaf, Tensor):
        leaf = leaf.detach().cpu()
        return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
    array = np.asarray(leaf)
    return array.astype(str) if array.dtype == object else array
