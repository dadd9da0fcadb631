"""JSON files as we write them: UTF-8, distinct keys, finite numbers, few levels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from lightning_mm.errors import LightningMMError

DEEPEST = 100
"""Levels of lists and mappings inside each other that a file may have."""


def read_json(path: Path, way_out: str) -> Any:
    """Read a JSON file: UTF-8, distinct keys, numbers that JSON has, at most ``DEEPEST`` levels.

    Args:
        path: The file, which exists.
        way_out: What the error advises.

    Raises:
        LightningMMError: If it is something else.
    """
    try:
        return parse_json(path.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "too deeply nested"
        raise LightningMMError(f"{path} is damaged (not JSON: {reason}); {way_out}") from None


def parse_json(content: bytes | str) -> Any:
    """Parse JSON; see :func:`read_json`.

    Raises:
        ValueError: If it is something else, or RecursionError.
    """
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    loaded = json.loads(text, object_pairs_hook=_distinct, parse_constant=_refused)
    _check_plain(loaded, 0)
    return loaded


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _check_plain(value: Any, depth: int) -> None:
    """Refuse what no file of ours holds and what cannot be written or shown again: half characters, deep nests."""
    if depth > DEEPEST:
        raise ValueError(f"more than {DEEPEST} levels inside each other")
    if isinstance(value, str):
        if not value.isascii():
            value.encode("utf-8")  # half of a character of two parts, such as "\\ud800"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(key, depth + 1)
            _check_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, depth + 1)
    elif isinstance(value, float) and value in (float("inf"), -float("inf")):
        raise ValueError("a number is too large")
