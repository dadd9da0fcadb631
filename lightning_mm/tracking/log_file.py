"""Reads the file that W&B writes of a run on this machine, ``run-<id>.wandb``: a log in the format of LevelDB."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

HEADER, BLOCK, PREFIX = 7, 32768, 7
"""Bytes of the header of the file, of a block, and before each part of a record: checksum, length (2) and kind (1)."""
WHOLE, LAST = 1, 4
"""Kinds of parts that end a record; others are the first part (2) and those in the middle (3)."""


def records(path: Path) -> Iterator[Any]:
    """The records of the file, as protocol buffers, up to the first that is cut off or damaged."""
    parse = import_module("wandb.proto.wandb_internal_pb2").Record.FromString
    damaged = import_module("google.protobuf.message").DecodeError
    for content in _contents(path.read_bytes()):
        try:
            yield parse(content)
        except damaged:
            return


def has_records(path: Path) -> bool:
    """Whether W&B has written anything into the file."""
    return path.is_file() and next(records(path), None) is not None


def has_end(path: Path) -> bool:
    """Whether the file has the record that W&B writes at the end of a run."""
    return any(one.WhichOneof("record_type") == "exit" for one in records(path))


def last_step(path: Path) -> int:
    """The highest step of the lines in the file; -1 without a line."""
    found = -1
    for one in records(path):
        if one.WhichOneof("record_type") == "history":
            for item in one.history.item:
                if (item.key or "/".join(item.nested_key)) == "_step" and item.value_json.isdigit():
                    found = max(found, int(item.value_json))
    return found


def _contents(content: bytes) -> Iterator[bytes]:
    position, parts = HEADER, b""
    while position + PREFIX <= len(content):
        left = BLOCK - position % BLOCK
        if left < PREFIX:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        position += PREFIX
        if kind == 0 or position + length > len(content):
            return
        parts += content[position : position + length]
        position += length
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
