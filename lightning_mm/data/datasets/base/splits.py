"""Splits of a data set: their names, which side a hash gives a sample, and the check of an index."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "val", "test")


def fraction(data_set: str, name: str) -> float:
    """Give a number in [0, 1) that depends on the two names alone: a sample keeps its side when others are added.

    It is the first 8 bytes of ``sha256("<data_set>/<name>")`` as a fraction of 2^64.

    Example:
        >>> 0 <= fraction("mfnet", "00001D") < 1
        True
    """
    return int.from_bytes(hashlib.sha256(f"{data_set}/{name}".encode()).digest()[:8], "big") / 2**64


def check_index(data_set: str, index: int, length: int, split: str) -> None:
    """Raise an IndexError unless ``index`` is the position of one of the ``length`` samples of a split."""
    if not 0 <= index < length:
        raise IndexError(f"{data_set}: index {index} is outside of the {length} samples of split {split!r}")
