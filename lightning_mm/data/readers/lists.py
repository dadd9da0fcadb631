"""Reading lists of names."""

from __future__ import annotations

from pathlib import Path

from lightning_mm.data.readers.damage import reading
from lightning_mm.errors import LightningMMError

_LONGEST_NAME = 240  # bytes; file systems allow 255 with the suffix


def read_list(path: Path, per_line: int | None = 1) -> tuple[str, ...]:
    """Read the names in a list.

    Args:
        path: A text file.
        per_line: How many words of a line are names, the first ones; all when None.

    Raises:
        DataNotFoundError: If the list is not there.
        LightningMMError: If it is no text, has no name, a name twice, or one that no file can have.
    """
    with reading(path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = tuple(word for line in lines for word in line.split()[:per_line])
    if not names:
        raise LightningMMError(f"{path} is empty; expected one name a line")
    longest = max(names, key=len)
    if len(longest.encode()) > _LONGEST_NAME:
        raise LightningMMError(
            f"{path} is no list of names: one of them has {len(longest)} letters and begins with {longest[:20]!r}; "
            "expected one name a line"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LightningMMError(f"{path} names {twice!r} twice; expected distinct names, one a line")
    return names
