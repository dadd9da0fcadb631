"""The first look of ``fit`` and ``test``: the network sees whole samples, in the containers of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_mm.cli.lightning.preflight import preflight
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.tasks import ClassificationTask


class Clip(NamedTuple):
    frames: Any
    title: Any


class Clips(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = Clip([torch.full((3,), float(index))], f"clip number {index}")
        return {"inputs": {"video": clip, "caption": f"caption {index}", "audio": torch.ones(2)}, "target": index % 2}


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen: list[Any] = []

    def forward(self, inputs: Mapping[str, Any], available: Tensor) -> Tensor:
        self.seen.append(inputs)
        logits: Tensor = self.layer(inputs["video"].frames[0])
        return logits


def test_the_first_look_takes_texts_and_named_tuples() -> None:
    modalities = ["video", "caption", "audio"]
    data = ModalityDropoutDataModule(lambda split: Clips(), modalities, eval_batch_size=3)
    data.setup("validate")
    network = Reader()
    task = ClassificationTask(network, modalities, num_classes=2)
    preflight(task, next(iter(data.val_dataloader())))

    (inputs,) = network.seen
    assert inputs["video"].title == ["clip number 0", "clip number 1"]
    assert inputs["caption"] == ["caption 0", "caption 1"]
    assert inputs["video"].frames[0][:, 0].tolist() == [0, 1]
    assert inputs["audio"].shape == (2, 2)
    assert task.training
