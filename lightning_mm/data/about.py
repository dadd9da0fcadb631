"""The page of a data set that the user has to fetch: source, terms, and what its folder looks like; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class About:
    """The page of a data set, shown by ``lightning-mm data NAME``; a class attribute ``about`` of the data set.

    Args:
        name: Its name on the command line and its folder under ``LIGHTNING_MM_DATA``, such as ``mfnet``.
        title: One line: content, modalities, classes, sizes.
        source: Where it comes from, and how to ask for it.
        licence: Its terms, or that none were found.
        reference: The paper.
        tree: The expected files, one a line.
        counts: Split to the number of samples of the published set; a folder may hold fewer.
        notes: What a user must know before figures are compared, such as traps of the official split.
        recalled: Whether the counts were recalled, not read in a source.
        data_set: Name of the class in :mod:`lightning_mm.data`.
        modalities: Names of its modalities, in order.
        class_names: Names of its classes, in order; empty if its files name them or it has none.
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
    data_set: str = ""
    modalities: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
