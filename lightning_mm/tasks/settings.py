"""Groups of settings that belong together, each a dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

from lightning_mm.errors import LightningMMError

Group = TypeVar("Group")


def group_of(kind: type[Group], given: Group | Mapping[str, Any], name: str) -> Group:
    """Make a group from the plain mapping that a checkpoint or a call gives; a group is returned as it is.

    Args:
        kind: The dataclass.
        given: The group, or its settings by name; those left out have their defaults.
        name: What the group is called as an argument, for errors.

    Raises:
        LightningMMError: If a setting is unknown; the closest one is named.
    """
    if isinstance(given, kind):
        return given
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(given, Mapping):
        raise LightningMMError(f"{name}: expected {kind.__name__} or a dict of its settings {known}, got {given!r}")
    for key in given:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            hint = f"; perhaps {close[0]!r} was meant" if close else ""
            raise LightningMMError(f"{name}: unknown setting {key!r}; it has {known}{hint}")
    return kind(**given)
