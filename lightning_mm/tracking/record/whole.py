"""Tells whether the file of an offline run is whole: W&B writes it in another process, and is silent on a full disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

HEADER, BLOCK, PREFIX = 7, 32768, 7
"""Bytes of the header of the file, of a block, and before each part of a record: checksum, length (2) and kind (1)."""
WHOLE, LAST = 1, 4
"""Kinds of parts that end a record; others are the first part (2) and those in the middle (3)."""


def is_whole(path: Path, seconds: float = 30.0) -> bool:
    """Whether a ``.wandb`` file has the record that W&B writes at the end of a run.

    Args:
        path: The file.
        seconds: How long to wait for it: an offline run is finished before its file is.
    """
    parse = import_module("wandb.proto.wandb_internal_pb2").Record.FromString
    end = time.monotonic() + seconds
    while not any(parse(content).WhichOneof("record_type") == "exit" for content in _records(path.read_bytes())):
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a log in the format of LevelDB, up to the first that is cut off."""
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
