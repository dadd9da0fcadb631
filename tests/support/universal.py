"""A small task of the universal model and images of squares for it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from lightning_mm import Modalities
from lightning_mm.data.module import ModalityDropoutDataModule
from lightning_mm.missing import RotatingCombinations, UniformCombinations
from lightning_mm.models import UniversalSegmenter
from lightning_mm.tasks import UniversalTask

NAMES = Modalities(["a", "b"])
CHANNELS = {"a": 1, "b": 2}
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}  # fmt: skip


class Squares(Dataset[dict[str, Any]]):
    """A square in noise, which both modalities show."""

    def __init__(self, split: str, size: int = 12) -> None:
        generator = torch.Generator().manual_seed(len(split))
        self.target = torch.zeros(size, 8, 8, dtype=torch.int64)
        for row, corner in enumerate(torch.randint(0, 4, (size, 2), generator=generator).tolist()):
            self.target[row, corner[0] : corner[0] + 4, corner[1] : corner[1] + 4] = 1
        self.inputs = {
            name: self.target.unsqueeze(1) + 0.3 * torch.randn(size, count, 8, 8, generator=generator)
            for name, count in CHANNELS.items()
        }

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": {m: values[index] for m, values in self.inputs.items()}, "target": self.target[index]}


def data(**settings: Any) -> ModalityDropoutDataModule:
    settings = {
        "train_policy": UniformCombinations(),
        "val_policy": RotatingCombinations(),
        "batch_size": 4,
        **settings,
    }
    return ModalityDropoutDataModule(Squares, list(NAMES), seed=5, **settings)


def build(dims: int = 2, **settings: Any) -> UniversalTask:
    torch.manual_seed(0)
    network = {"size": [8] * dims, "cell": 4, "widths": [4, 6], "head_width": 3, "hyper": settings.pop("hyper", False)}
    return UniversalTask(UniversalSegmenter(CHANNELS, 2, **network), list(NAMES), 2, loss="ce+dice", **settings)
