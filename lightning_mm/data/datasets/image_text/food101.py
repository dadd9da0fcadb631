"""UPMC Food-101: photos of dishes from the web and the titles of their pages, 101 classes.

Shapes: H x W pixels, L words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mm.data.about import About
from lightning_mm.data.datasets.base.splits import SPLITS, check_index
from lightning_mm.data.pages.food101 import FOOD101
from lightning_mm.data.readers.damage import reading
from lightning_mm.data.readers.folders import find_folder
from lightning_mm.data.readers.photos import read_photo, resized, size_within
from lightning_mm.errors import DataNotFoundError, LightningMMError, check_choice, check_whole

_FILES = ("class_idx.json", "text.json", "split.json")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class Food101(Dataset[dict[str, Any]]):
    """Classification of dishes from ``image`` and ``text``.

    Samples are those of ``split.json`` that have a text in ``text.json``; the class is the name of the file without its
    number (``apple_pie_12.jpg``). Images of the validation split are under ``images/train``. Of several texts the first
    one that is not blank is used.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: The folder that holds ``images`` and the three lists; ``$LIGHTNING_MM_DATA/food101`` when not given.
        vocab: The WordPiece vocabulary, ``vocab.txt`` of BERT uncased, one token a line; ``<root>/vocab.txt`` when not
            given.
        max_text_length: L; longer texts are cut, shorter ones padded.
        size: Side in pixels of the square that images are resized to; with ``longer``, their shorter side.
        longer: Keeps the shape of images instead, as ViLT does: their longer side is at most this (640 for 384), and
            both are rounded down to multiples of ``multiple``. Images of a batch are then padded, and the
            placeholder of an absent one is as large as the others of its batch.
        multiple: The patch size of the network; ``size`` must be a multiple of it.
        allow_missing: Whether images may not be there; they are then None.

    Shape:
        A sample is ``{"inputs": {"image": Float[3, size, size], "text": {"input_ids": Int64[L], "attention_mask":
        Int64[L]}}, "target": int}``; pixels are between -1 and 1. With ``longer``, ``image`` is ``{"pixel_values":
        Float[3, H, W], "pixel_mask": Int64[H, W]}``.

    Raises:
        DataNotFoundError: If the folder or a file is not there; all images are checked at once.
        LightningMMError: If ``transformers`` (which brings the tokenizer) is not installed, an argument is out of range
            or a list is malformed; when read, if an image is damaged.

    Reference:
        Wang et al.: Recipe recognition with large multimodal food dataset, ICME Workshops 2015; the lists are those of
        Lee et al.: Multimodal Prompting with Missing Modalities for Visual Recognition, CVPR 2023.
    """

    about: ClassVar[About] = FOOD101
    modalities: ClassVar[tuple[str, ...]] = about.modalities

    def __init__(
        self,
        split: str,
        root: str | None = None,
        vocab: str | None = None,
        max_text_length: int = 40,
        size: int = 384,
        longer: int | None = None,
        multiple: int = 32,
        allow_missing: bool = False,
    ) -> None:
        check_choice("Food101: split", split, SPLITS)
        if multiple < 1 or size < multiple or size % multiple or (longer is not None and longer < size):
            raise LightningMMError(
                f"Food101: size must be a multiple of {multiple}, and longer at least as large, got {size} and {longer}"
            )
        check_whole("Food101: max_text_length", max_text_length, 2)  # [CLS] and [SEP]
        self.split, self.size, self.longer, self.multiple = split, size, longer, multiple
        self.max_text_length, self.allow_missing = max_text_length, allow_missing
        self.root = find_folder("Food101", "food101", root, _FILES)
        classes, texts, splits = (_read_json(self.root / name) for name in _FILES)
        numbers = _numbers(classes, self.root / _FILES[0])
        self.class_names = tuple(sorted(numbers, key=lambda name: numbers[name]))
        if split not in splits:
            raise LightningMMError(f"Food101: {self.root / _FILES[2]} has no split {split!r}, only {sorted(splits)}")
        spoken = {
            name: _first_text(name, texts.get(name), self.root / _FILES[1])
            for name in _names(splits[split], split, self.root / _FILES[2])
        }
        self.files = tuple(name for name, text in spoken.items() if text)
        if not self.files:
            raise DataNotFoundError(f"Food101: no file of split {split!r} has a text in {self.root / _FILES[1]}")
        self.texts = tuple(spoken[name] for name in self.files)
        self.targets = tuple(self._target(name, numbers) for name in self.files)
        self._paths = self._find_images()
        self._tokenizer = _tokenizer(Path(vocab).expanduser() if vocab else self.root / "vocab.txt", max_text_length)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read_some(index, self.modalities)

    def read_some(self, index: int, modalities: Sequence[str]) -> dict[str, Any]:
        """A sample with some of its modalities; the image is not opened without its own, and others are None."""
        check_index("Food101", index, len(self), self.split)
        path = self._paths[index] if "image" in modalities else None
        text = self._text(self.texts[index]) if "text" in modalities else None
        inputs = {"image": None if path is None else self._image(path), "text": text}
        return {"inputs": inputs, "target": self.targets[index]}

    def template(self, modality: str, sample: Mapping[str, Any]) -> Any:
        """Zeros of the smallest image; a text is never missing."""
        return self._pixels(torch.zeros(3, self.size, self.size)) if modality == "image" else None

    def explain_missing(self, index: int, modality: str) -> str:
        """Name the file that was not found, and the way out."""
        name = self.files[index]
        return (
            f"Food101: {name} has no {modality}, expected at {self._folder / _class_of(name) / name}; complete the "
            "data, or set allow_missing=true"
        )

    def _image(self, path: Path) -> Float[Tensor, "3 height width"] | dict[str, Tensor]:
        photo = read_photo(path)
        width, height = self.size, self.size
        if self.longer is not None:
            width, height = size_within(photo.size, self.size, self.longer, self.multiple)
        return self._pixels(resized(photo, width, height))

    def _pixels(self, values: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"] | dict[str, Tensor]:
        if self.longer is None:
            return values
        return {"pixel_values": values, "pixel_mask": torch.ones(values.shape[1:], dtype=torch.int64)}

    def _text(self, text: str) -> dict[str, Tensor]:
        encoded = self._tokenizer.encode(text)
        return {"input_ids": torch.tensor(encoded.ids), "attention_mask": torch.tensor(encoded.attention_mask)}

    def _target(self, name: str, classes: Mapping[str, int]) -> int:
        label = _class_of(name)
        if label not in classes:
            raise LightningMMError(
                f"Food101: {name} is of class {label!r}, which {self.root / _FILES[0]} does not have"
            )
        return classes[label]

    @property
    def _folder(self) -> Path:
        return self.root / "images" / ("test" if self.split == "test" else "train")

    def _find_images(self) -> list[Path | None]:
        """Find the path of each image; a folder is listed once, as there are tens of thousands of files."""
        folder = self._folder
        listed = {
            label: set(os.listdir(folder / label)) if (folder / label).is_dir() else set()
            for label in {_class_of(name) for name in self.files}
        }
        found = [folder / _class_of(name) / name if name in listed[_class_of(name)] else None for name in self.files]
        missing = [name for name, path in zip(self.files, found) if path is None]
        if missing and (not self.allow_missing):
            where = folder / _class_of(missing[0]) / missing[0]
            raise DataNotFoundError(
                f"Food101: {len(missing)} of {len(found)} samples of split {self.split!r} have no image, the first is "
                f"{missing[0]}, expected at {where}; complete the data, or set allow_missing=true"
            )
        return found


def _class_of(name: str) -> str:
    return name.rsplit("_", 1)[0]


def _numbers(classes: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Read the number of each class: 0, 1, ..., each once, as an integer or its digits."""
    try:
        numbers = {name: int(number) for name, number in classes.items() if isinstance(number, (int, str))}
    except ValueError as error:
        raise LightningMMError(f"Food101: {path} must give each class a number ({error})") from error
    odd = [name for name in classes if name not in numbers]
    if odd:
        raise LightningMMError(f"Food101: {path} must give each class a number, got {classes[odd[0]]!r} for {odd[0]!r}")
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise LightningMMError(f"Food101: {path} must number its {len(numbers)} classes from 0 without gaps")
    return numbers


def _names(listed: Any, split: str, path: Path) -> list[str]:
    """Check the files of a split."""
    odd = [one for one in listed if not isinstance(one, str)] if isinstance(listed, list) else [listed]
    if odd:
        raise LightningMMError(
            f"Food101: {path} must give split {split!r} as a list of files such as 'apple_pie_12.jpg', "
            f"got {'an entry' if isinstance(listed, list) else 'one thing'} of type {type(odd[0]).__name__}"
        )
    return list(listed)


def _first_text(name: str, texts: Any, path: Path) -> str:
    """Take the first text that is not blank; the empty string if all are."""
    if not (texts is None or isinstance(texts, (str, list))):
        raise LightningMMError(
            f"Food101: {path} must give {name} a text or a list of texts, got one thing of type {type(texts).__name__}"
        )
    candidates = [texts] if isinstance(texts, str) else texts or []
    return next((text.strip() for text in candidates if isinstance(text, str) and text.strip()), "")


def _read_json(path: Path) -> dict[str, Any]:
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise LightningMMError(f"Food101: expected {path} to hold a mapping, got a {type(content).__name__}")
    return content


def _tokenizer(vocab: Path, length: int) -> Any:
    """Make the tokenizer of BERT uncased: texts of ``length`` tokens, cut or padded."""
    if not vocab.is_file():
        raise DataNotFoundError(
            f"Food101: no vocabulary at {vocab}; set vocab to the vocab.txt of BERT base uncased, one token a line"
        )
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError as error:
        raise LightningMMError(
            f"Food101 needs the tokenizer of transformers, which cannot be imported ({error}): "
            "pip install 'lightning-mm[transformers]'"
        ) from error
    try:
        tokens = vocab.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise LightningMMError(f"Food101: {vocab} is no vocabulary, one token a line: {error}") from error
    lacking = [token for token in _SPECIAL if token not in tokens]
    if lacking:
        raise LightningMMError(f"Food101: {vocab} is no vocabulary of BERT: it lacks {', '.join(lacking)}")
    tokenizer = BertWordPieceTokenizer(str(vocab), lowercase=True)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=tokens.index("[PAD]"))
    return tokenizer
