"""What is known of a data set that the user has to fetch: its source, its terms, and what its folder looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class About:
    """The page of a data set, shown by ``lightning-mm data NAME``; a class attribute ``about`` of the data set.

    Args:
        name: Its name on the command line and its folder under ``LIGHTNING_MM_DATA``, such as ``mfnet``.
        title: One line: what it is of, modalities, classes, sizes.
        source: Where it comes from, and how it is asked for.
        licence: Its terms, or that none were found.
        reference: The paper.
        tree: The expected files, one a line.
        counts: Split to the number of samples of the published set; a folder may hold fewer.
        notes: What a user must know before figures are compared, such as traps of the official split.
        recalled: Whether the counts are recalled and were not read in a source.
    """

    name: str
    title: str
    source: str
    licence: str
    reference: str
    tree: str
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: str = ""
    recalled: bool = False


def modalities_of(data_set: Any) -> list[str]:
    """The modalities of a data set or its class: its ``modalities``, or the names of its ``channels``; may be none.

    Example:
        >>> from lightning_mm.data import Food101, MFNet
        >>> modalities_of(Food101), modalities_of(MFNet)
        (['image', 'text'], ['rgb', 'thermal'])
    """
    return list(getattr(data_set, "modalities", getattr(data_set, "channels", ())))
