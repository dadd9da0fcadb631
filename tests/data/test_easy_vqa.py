"""EasyVqa on files generated in the true layout, whole and broken."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mm.data import EasyVqa, ModalityDropoutDataModule
from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.missing import Zeros, fill_inputs
from tests.support.fake import easy_vqa as fake


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fake.write(tmp_path / "easy_vqa")


def test_a_sample_is_the_image_the_words_and_the_answer(root: Path) -> None:
    dataset = EasyVqa("test", root=str(root), max_length=7)
    assert len(dataset) == 18
    words = {number: word for word, number in dataset.vocabulary.items()}
    for place, (text, answer, image) in enumerate(fake.questions(6)):
        sample = dataset[place]
        question = sample["inputs"]["question"]
        length = int(question["attention_mask"].sum())
        assert " ".join(words[int(one)] for one in question["input_ids"][:length]) == str(text).rstrip("?")
        assert question["input_ids"][length:].tolist() == [0] * (7 - length)
        assert sample["target"].tolist() == [float(name == answer) for name in EasyVqa.class_names]
        colour = torch.tensor(list(fake.COLOURS.values())[int(image) % 3]) / 127.5 - 1  # type: ignore[call-overload]
        torch.testing.assert_close(sample["inputs"]["image"][:, 30, 30], colour)


def test_all_questions_about_an_image_are_in_one_split(root: Path) -> None:
    parts = {split: EasyVqa(split, root=str(root), val_fraction=0.4).questions for split in ("train", "val")}
    images = {split: {image for _, _, image in own} for split, own in parts.items()}
    assert not images["train"] & images["val"]
    assert images["train"] | images["val"] == set(range(36))
    assert all(images.values())
    assert sum(map(len, parts.values())) == 108


def test_some_questions_are_always_the_same_ones(root: Path) -> None:
    every = EasyVqa("train", root=str(root)).questions
    some = EasyVqa("train", root=str(root), max_questions=20).questions
    fewer = EasyVqa("train", root=str(root), max_questions=9).questions
    assert len(some) == 20
    assert set(fewer) < set(some) < set(every)
    assert list(some) == [one for one in every if one in set(some)]


def test_long_questions_are_cut_and_unknown_words_are_one_token(root: Path) -> None:
    dataset = EasyVqa("val", root=str(root), max_length=3, val_fraction=0.4)
    found = dataset.tokens("Is there a purple shape?")
    assert found["input_ids"].tolist() == [dataset.vocabulary[word] for word in ("is", "there", "a")]
    assert dataset.tokens("purple")["input_ids"].tolist() == [1, 0, 0]


def test_an_absent_question_is_padding(root: Path) -> None:
    data = ModalityDropoutDataModule(lambda split: EasyVqa(split, root=str(root)), ["image", "question"], batch_size=4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["target"].shape == (4, 13)
    absent = torch.tensor([[True, False]]).expand(4, 2)
    filled = fill_inputs(Zeros(), ["image", "question"], batch["inputs"], absent)
    assert not filled["question"]["input_ids"].any()
    assert not filled["question"]["attention_mask"].any()
    assert torch.equal(filled["image"], batch["inputs"]["image"])


def edited(change: Callable[[list[Any]], Any]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        path = root / "train" / "questions.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return apply


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda root: (root / "answers.txt").write_text("yes\nno"), LightningMMError, "expected the answers circle"),
        (lambda root: (root / "answers.txt").unlink(), DataNotFoundError, "lacks answers.txt"),
        (lambda root: (root / "train/images/7.png").unlink(), DataNotFoundError, "1 images of split 'train'"),
        (edited(lambda content: {"a": content}), LightningMMError, "expected a list of questions, got dict"),
        (edited(lambda content: [*content, ["what?", "purple", 3]]), LightningMMError, "entry 108: expected"),
        (edited(lambda content: [["what?", "red", True], *content]), LightningMMError, "entry 0: expected"),
    ],
)
def test_broken_files(root: Path, spoil: Callable[[Path], None], error: type[Exception], message: str) -> None:
    spoil(root)
    with pytest.raises(error, match=re.escape(message)):
        EasyVqa("train", root=str(root), val_fraction=0)


@pytest.mark.parametrize(
    "arguments", [{"max_questions": 0}, {"max_length": 0}, {"val_fraction": 1.0}, {"split": "dev"}]
)
def test_arguments_out_of_range(root: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(LightningMMError, match="EasyVqa"):
        EasyVqa(**{"split": "train", "root": str(root), **arguments})
