"""Names of modalities in a fixed order, and the combinations of them that may be available; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations as choose
from random import Random
from typing import overload

from lightning_mm.errors import LightningMMError

SEPARATOR = "+"
MOST_LISTED = 16
"""The most modalities of which all combinations are listed: 65,535."""


class ModalityNames(Sequence[str]):
    """An ordered set of modality names, without the masks of :class:`lightning_mm.Modalities`.

    Args:
        names: Distinct, non-empty names without ``+``, ``/`` or blanks.

    Raises:
        LightningMMError: If a name is empty, repeated or holds a reserved character.

    Example:
        >>> ModalityNames(["rgb", "depth"]).combinations()
        ('rgb', 'depth', 'rgb+depth')
    """

    def __init__(self, names: Iterable[str]) -> None:
        if isinstance(names, str):
            raise LightningMMError(f"modalities must be a list of names, got the string {names!r}; write [{names}]")
        self.names = tuple(names)
        for name in self.names:
            if not isinstance(name, str) or not name or any(mark in name for mark in "+/ \t\n"):
                raise LightningMMError(
                    f"a modality name must be a non-empty string without '+', '/' or blanks, got {name!r}"
                )
        if not self.names or len(set(self.names)) != len(self.names):
            raise LightningMMError(f"modalities must be one or more distinct names, got {list(self.names)}")

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[str, ...]: ...
    def __getitem__(self, position: int | slice) -> str | tuple[str, ...]:
        return self.names[position]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)  # that of Sequence stops at an IndexError, which torch 2.6 cannot compile

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModalityNames) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.names)})"

    @property
    def full(self) -> str:
        """The combination in which every modality is available, e.g. ``"rgb+depth"``."""
        return SEPARATOR.join(self.names)

    def combinations(self) -> tuple[str, ...]:
        """All 2^M - 1 combinations, sizes ascending, modalities in the fixed order inside; the last one is ``full``.

        Raises:
            LightningMMError: If there are too many modalities to list them.
        """
        if len(self) > MOST_LISTED:
            raise LightningMMError(
                f"{len(self)} modalities have {2 ** len(self) - 1:,} combinations, too many to list; choose some, as "
                f"combinations=[{self.names[0]}, ...]"
            )
        return tuple(SEPARATOR.join(subset) for size in range(1, len(self) + 1) for subset in choose(self.names, size))

    def incomplete(self) -> tuple[str, ...]:
        """All combinations but the full one."""
        return self.combinations()[:-1]

    def sampled(self, limit: int, seed: int = 0) -> tuple[str, ...]:
        """All combinations, or a fixed draw of ``limit`` if there are more.

        Among them are the full one, those of one modality and those that lack one. The order is that of
        :meth:`combinations`.

        Example:
            >>> ModalityNames(list("abcdefghijkl")).sampled(25)[:2]
            ('a', 'b')
        """
        size = len(self)
        if 2**size - 1 <= limit:
            return self.combinations()
        full = 2**size - 1
        codes = {full, *(1 << place for place in range(size)), *(full ^ (1 << place) for place in range(size))}
        random = Random(seed)
        while len(codes) < limit:
            codes.add(random.randrange(1, full))
        places = [[place for place in range(size) if code >> place & 1] for code in codes]
        ordered = sorted(places, key=lambda chosen: (len(chosen), chosen))
        return tuple(SEPARATOR.join(self.names[place] for place in chosen) for chosen in ordered)

    def parse(self, combination: str) -> tuple[str, ...]:
        """Split ``"depth+rgb"`` into its modalities, in the fixed order.

        Raises:
            LightningMMError: If the combination is empty, repeats a modality or names one that does not exist.
        """
        parts = combination.split(SEPARATOR)
        unknown = [part for part in parts if part not in self.names]
        if unknown or len(set(parts)) != len(parts):
            what = f"unknown modality {unknown[0]!r}" if unknown else "a modality twice"
            raise LightningMMError(
                f"combination {combination!r} has {what}; expected names out of {list(self.names)} joined by '+', "
                f"e.g. {self.full!r}"
            )
        return tuple(name for name in self.names if name in parts)

    def canonical(self, combination: str) -> str:
        """The same combination written in the fixed order; errors as in :meth:`parse`."""
        return SEPARATOR.join(self.parse(combination))

    def select(self, combinations: Sequence[str] | None) -> tuple[str, ...]:
        """Canonical, distinct combinations in the order of :meth:`combinations`; ``None`` selects all."""
        if combinations is None:
            return self.combinations()
        if isinstance(combinations, str) or not combinations:
            raise LightningMMError(
                f"combinations must be a non-empty list such as [{self.names[0]}], got {combinations!r}"
            )
        wanted = {self.canonical(combination) for combination in combinations}
        return tuple(
            sorted(wanted, key=lambda name: (len(self.parse(name)), [self.index(n) for n in self.parse(name)]))
        )
