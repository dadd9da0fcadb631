"""Sentences as targets: numbers of their words, for tasks that compare them with clips.

Shapes: L words of the longest sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightning_mm.data.datasets.image_text.easy_vqa import PAD, words_of
from lightning_mm.errors import LightningMMError


class Sentences:
    """A list of different sentences and the vocabulary of all of them, in alphabetical order after padding.

    Args:
        texts: The sentences.

    Attributes:
        vocabulary: Word to token number, from 1.
        length: Words of the longest sentence L.

    Raises:
        LightningMMError: If a sentence has no word, or two have the same words.

    Example:
        >>> Sentences(["sit to stand", "jog"]).target(1)
        {'caption': 1, 'text': {'input_ids': tensor([1, 0, 0]), 'attention_mask': tensor([1, 0, 0])}}
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, words = tuple(texts), [tuple(words_of(text)) for text in texts]
        if not words or not all(words) or len(set(words)) < len(words):
            raise LightningMMError(f"expected sentences of different words, got {list(texts)[:20]}")
        self.vocabulary = {
            word: number for number, word in enumerate(sorted({one for own in words for one in own}), PAD + 1)
        }
        self.length = max(map(len, words))
        self._tokens = [[self.vocabulary[word] for word in own] for own in words]

    @property
    def tokens(self) -> int:
        """The size of the vocabulary, padding included."""
        return len(self.vocabulary) + 1

    def target(self, number: int) -> dict[str, Any]:
        """The number of a sentence and its words: token numbers and mask, ``Int64[L]`` each."""
        known = self._tokens[number]
        padding = [PAD] * (self.length - len(known))
        text = {
            "input_ids": torch.tensor(known + padding),
            "attention_mask": torch.tensor([1] * len(known) + [0] * len(padding)),
        }
        return {"caption": number, "text": text}
