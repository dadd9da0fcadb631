"""The first look of ``fit`` and ``test``: the network sees whole samples, in the containers of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_mm.cli.lightning.preflight import preflight
from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
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


class Noisy(Reader):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2))  # type: ignore[assignment]


def test_the_first_look_leaves_the_network_as_it_was() -> None:
    task = ClassificationTask(Noisy(), ["video"], num_classes=2)
    before, state = {key: value.clone() for key, value in task.state_dict().items()}, torch.get_rng_state()
    batch = {
        "inputs": {"video": Clip([torch.arange(6.0).view(2, 3)], ["one", "two"])},
        "available": torch.ones(2, 1, dtype=torch.bool),
        "target": torch.tensor([0, 1]),
    }
    preflight(task, batch)
    assert all(torch.equal(value, before[key]) for key, value in task.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert task.training
    assert all(parameter.grad is None for parameter in task.parameters())


class Wrong(nn.Module):
    """Fails as networks do."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        raise self.error


def test_a_network_that_cannot_take_the_batch_is_one_message_with_what_it_was_given() -> None:
    inputs = {"video": Clip(torch.zeros(4, 2), torch.ones(4).long()), "text": ["a", "b", "c", "d"]}
    batch = {"inputs": inputs, "available": torch.ones(4, 2).bool(), "target": torch.zeros(4).long()}
    given = r"on inputs of video \(0: torch.float32 \[2, 2\], 1: torch.int64 \[2\]\), text \(list\); "
    for error, message in (
        (KeyError("audio"), f"Wrong raised KeyError: 'audio' {given}if this is a modality, list it in data.modalities"),
        (KeyError("text"), f"Wrong raised KeyError: 'text' {given}LIGHTNING_MM_TRACEBACK=1 shows where"),
        (
            RuntimeError("no Double"),
            f"Wrong raised RuntimeError: no Double {given}LIGHTNING_MM_TRACEBACK=1 shows where",
        ),
        (LightningMMError("as it is"), "^as it is$"),
    ):
        with pytest.raises(LightningMMError, match=message):
            preflight(ClassificationTask(Wrong(error), ["video", "text"], num_classes=2), batch)
