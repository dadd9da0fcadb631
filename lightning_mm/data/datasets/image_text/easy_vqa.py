"""EasyVqa: questions about pictures of one coloured shape.

Shapes: H x W pixels, L words, C answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import SPLITS, check_index, fraction
from lightning_mm.data.pages.easy_vqa import EASY_VQA
from lightning_mm.data.readers.damage import reading
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.data.readers.photos import read_photo, resized
from lightning_mm.errors import DataNotFoundError, LightningMMError, check_choice, check_fraction, check_whole

PAD, UNKNOWN = 0, 1
"""Token numbers of padding, and of words that no training question has."""
SIZE = 64
"""Height and width of an image."""
Question = tuple[str, int, int]
"""Text, number of the answer, number of the image."""


class EasyVqa(Dataset[dict[str, Any]]):
    """Visual question answering with two modalities: ``image`` and ``question``.

    The vocabulary is that of all training questions (those kept for validation too), in alphabetical order after
    padding and the token of unknown words.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder that holds ``answers.txt``, ``train`` and ``test``; ``$LIGHTNING_MM_DATA/easy_vqa`` when not
            given.
        val_fraction: Part of the training images that is kept for validation.
        max_questions: At most so many questions of the split, chosen by a hash; all of them when not given.
        max_length: L; longer questions are cut, shorter ones padded.

    Attributes:
        vocabulary: Word to token number.
        questions: Text, number of the answer and number of the image of every sample.

    Shape:
        A sample is ``{"inputs": {"image": Float[3, 64, 64], "question": {"input_ids": Int64[L], "attention_mask":
        Int64[L]}}, "target": Float[C]}``; pixels are between -1 and 1, the target is 1 for the right answer.

    Raises:
        DataNotFoundError: If the folder or a file is not there; all images are checked at once.
        LightningMMError: If an argument is out of range or a list is malformed; when read, if an image is damaged.

    Reference:
        V. Zhou: easy-VQA, 2019.
    """

    about: ClassVar[About] = EASY_VQA
    modalities: ClassVar[tuple[str, ...]] = about.modalities
    class_names = about.class_names

    def __init__(
        self,
        split: str,
        root: str | None = None,
        val_fraction: float = 0.1,
        max_questions: int | None = None,
        max_length: int = 12,
    ) -> None:
        check_choice("EasyVqa: split", split, SPLITS)
        check_fraction("EasyVqa: val_fraction", val_fraction, below_one=True)
        check_whole("EasyVqa: max_length", max_length, 1)
        if max_questions is not None:
            check_whole("EasyVqa: max_questions", max_questions, 1)
        self.split, self.val_fraction, self.max_length = split, val_fraction, max_length
        needed = ["answers.txt", "train/questions.json", "test/questions.json", "train/images/", "test/images/"]
        self.root = find_folder("EasyVqa", self.about.name, root, needed)
        answers = _read_answers(self.root / "answers.txt", self.class_names)
        training = _read_questions(self.root / "train" / "questions.json", answers)
        words = sorted({word for text, _, _ in training for word in words_of(text)})
        self.vocabulary = {word: number for number, word in enumerate(words, UNKNOWN + 1)}
        part = "test" if split == "test" else "train"
        own = training if part == "train" else _read_questions(self.root / "test" / "questions.json", answers)
        if part == "train":
            kept = {image: fraction("easy_vqa", f"train/{image}") < val_fraction for _, _, image in own}
            own = [one for one in own if kept[one[2]] == (split == "val")]
        self.questions: tuple[Question, ...] = tuple(_chosen(own, max_questions))
        self._folder = self.root / part / "images"
        self._images: dict[int, Tensor] = {}
        lacking = sorted({image for _, _, image in self.questions if not self._path(image).is_file()})
        if lacking:
            raise DataNotFoundError(
                f"EasyVqa: {len(lacking)} images of split {split!r} are not there, the first is expected at "
                f"{self._path(lacking[0])}; copy the folder easy_vqa/data of the package easy-vqa again"
            )

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        check_index("EasyVqa", index, len(self), self.split)
        text, answer, image = self.questions[index]
        target = torch.zeros(len(self.class_names))
        target[answer] = 1
        return {"inputs": {"image": self._image(image).clone(), "question": self.tokens(text)}, "target": target}

    def tokens(self, text: str) -> dict[str, Int64[Tensor, " word"]]:
        """Token numbers and mask of a question, ``Int64[L]`` each."""
        known = [self.vocabulary.get(word, UNKNOWN) for word in words_of(text)][: self.max_length]
        padding = [PAD] * (self.max_length - len(known))
        mask = [1] * len(known) + [0] * len(padding)
        return {"input_ids": torch.tensor(known + padding), "attention_mask": torch.tensor(mask)}

    def _path(self, image: int) -> Path:
        return self._folder / f"{image}.png"

    def _image(self, image: int) -> Tensor:
        """An image, decoded once: ten questions are about each."""
        if image not in self._images:
            self._images[image] = resized(read_photo(self._path(image)), SIZE, SIZE)
        return self._images[image]


def words_of(text: str) -> list[str]:
    """Split a question into words in small letters.

    Example:
        >>> words_of("Is there a blue shape?")
        ['is', 'there', 'a', 'blue', 'shape']
    """
    return re.findall(r"[\w']+", text.lower())


def _read_answers(path: Path, names: Sequence[str]) -> dict[str, int]:
    with reading(path):
        answers = path.read_text(encoding="utf-8").split()
    if tuple(answers) != tuple(names):
        raise LightningMMError(
            f"EasyVqa: {path}: expected the answers {', '.join(names)}, in this order, got {', '.join(answers[:20])}; "
            "copy it again"
        )
    return {answer: number for number, answer in enumerate(answers)}


def _read_questions(path: Path, answers: dict[str, int]) -> list[Question]:
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, list) or not content:
        raise LightningMMError(f"EasyVqa: {path}: expected a list of questions, got {type(content).__name__}")
    found = []
    for place, one in enumerate(content):
        if not isinstance(one, list) or [type(part) for part in one] != [str, str, int] or one[1] not in answers:
            raise LightningMMError(
                f"EasyVqa: {path}, entry {place}: expected [question, one of {len(answers)} answers, number of the "
                f"image], got {str(one)[:80]}; copy it again"
            )
        found.append((one[0], answers[one[1]], one[2]))
    return found


def _chosen(questions: list[Question], most: int | None) -> list[Question]:
    """Some questions in their order, those with the smallest hash of text and image."""
    if most is None or most >= len(questions):
        return questions
    hashes = [fraction("easy_vqa", f"{image}/{text}") for text, _, image in questions]
    limit = sorted(hashes)[most - 1]
    return [one for one, value in zip(questions, hashes) if value <= limit][:most]
