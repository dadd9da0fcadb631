"""The sweep with texts, arrays and named tuples among the inputs: every row stays with its sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_mm.data import ModalityDropoutDataModule
from lightning_mm.errors import LightningMMError
from lightning_mm.sweep import sweep

QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
WORDS = ["red", "green", "blue"]


class Text(NamedTuple):
    caption: Any
    ids: Any


def named(number: int) -> Text:
    return Text(WORDS[number], torch.tensor([number]))


def text_first(number: int) -> dict[str, Any]:
    return {"caption": WORDS[number], "ids": torch.tensor([number])}


def text_last(number: int) -> dict[str, Any]:
    return {"ids": torch.tensor([number]), "caption": WORDS[number]}


def texts_alone(number: int) -> str:
    return WORDS[number]


class Captions(Dataset[dict[str, Any]]):
    """Caption and ids tell the class; some samples lack the image."""

    def __init__(self, form: Any) -> None:
        self.form = form

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = index // 2 % 3
        image = torch.ones(2) if index % 2 or index < 5 else None
        return {
            "inputs": {"text": self.form(number), "image": image},
            "target": (number, WORDS[number]),
            "index": index,
        }


class ReadingTask(LightningModule):
    """Right where caption, ids and both targets of a sample agree."""

    primary_metric, modalities = "accuracy", ("text", "image")

    def forward(self, inputs: Mapping[str, Any], available: Tensor) -> Any:
        text, rows = inputs["text"], len(available)
        assert len(inputs["image"]) == rows
        captions = text if isinstance(text, list) else text["caption"] if isinstance(text, dict) else text.caption
        ids = torch.tensor([WORDS.index(caption) for caption in captions])
        if not isinstance(text, list):
            assert torch.equal(ids, (text["ids"] if isinstance(text, dict) else text.ids)[:, 0])
        return ids

    def sample_statistics(self, outputs: Tensor, target: Any) -> dict[str, Tensor]:
        numbers, words = target
        assert [WORDS[number] for number in numbers] == words
        return {"hit": (outputs == numbers).long()}

    def metrics_from(self, statistics: dict[str, Tensor]) -> dict[str, float]:
        return {"accuracy": statistics["hit"].double().mean().item()}


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("form", [named, text_first, text_last, texts_alone])
def test_texts_stay_with_their_samples(form: Any) -> None:
    data = ModalityDropoutDataModule(lambda split: Captions(form), ["text", "image"], eval_batch_size=12)
    result = sweep(
        ReadingTask(),
        data,
        combinations=["text", "text+image"],
        trainer=Trainer(accelerator="cpu", devices=1, **QUIET),
        bootstrap=0,
    )

    assert [(row.value, row.n) for row in result.rows] == [(1.0, 12), (1.0, 9)]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_inputs_without_a_row_per_sample_are_refused() -> None:
    batch: Any = {"inputs": {"text": "mean", "image": torch.tensor(1.0)}, "target": torch.zeros(2)}
    with pytest.raises(LightningMMError, match=r"\['text', 'image'\] hold nothing with one row per sample; expected"):
        sweep(
            ReadingTask(),
            DataLoader([batch], batch_size=None),
            modalities=["text", "image"],
            trainer=Trainer(accelerator="cpu", devices=1, **QUIET),
            bootstrap=0,
        )
