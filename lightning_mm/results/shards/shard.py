"""Which part of a sweep a result is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_mm.errors import LightningMMError, UsageError

EXPECTED = "expected the number of this part and of all parts, such as 2/4, counted from 1 (sbatch --array=1-4)"


@dataclass(frozen=True)
class Shard:
    """Which part of a sweep a result is.

    Args:
        number: Of this part, 1 to ``of``.
        of: Number of parts.
        sweep: Hash of what all parts share: networks, combinations, split, seed, resampling and data.
        cells: All figures of the whole sweep in its order, ``<method>/<combination>``.
    """

    number: int
    of: int
    sweep: str = ""
    cells: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return f"{self.number}/{self.of}"

    def take(self, combinations: Sequence[str]) -> tuple[str, ...]:
        """The combinations of this part: every ``of``-th one, so that parts differ by at most one in their number.

        Args:
            combinations: All of the sweep, ordered by size: every part gets small and large ones.

        Raises:
            LightningMMError: If there are fewer combinations than parts.
        """
        if self.of > len(combinations):
            raise LightningMMError(
                f"shard {self.text}: the sweep has {len(combinations)} combinations, so some of {self.of} parts would "
                f"have none; use at most {len(combinations)} shards"
            )
        return tuple(combinations[self.number - 1 :: self.of])

    def renamed(self, names: Mapping[str, str]) -> Shard:
        """The same part with other names of methods."""
        cells = (cell.split("/", 1) for cell in self.cells)
        return replace(self, cells=tuple("/".join([names.get(method, method), *rest]) for method, *rest in cells))

    def content(self) -> dict[str, Any]:
        """What ``sweep.json`` holds."""
        return {"number": self.number, "of": self.of, "sweep": self.sweep, "cells": list(self.cells)}

    @classmethod
    def from_content(cls, content: Mapping[str, Any] | None) -> Shard | None:
        """Read what :meth:`content` made; ``None`` stays."""
        return None if content is None else cls(**{**content, "cells": tuple(content["cells"])})

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``2/4``, the second of four parts.

        Raises:
            UsageError: If it is something else.

        Example:
            >>> Shard.parse("2/2").take(["rgb", "depth", "rgb+depth"])
            ('depth',)
        """
        found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"shard: {EXPECTED}, got {text!r}")
        return cls(int(found[1]), int(found[2]))
