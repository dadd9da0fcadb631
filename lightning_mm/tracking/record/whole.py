"""Tells whether the file of an offline run is whole: W&B writes it in another process, and is silent on a full disk."""

from __future__ import annotations

import time
from pathlib import Path

from lightning_mm.tracking.log_file import has_end


def is_whole(path: Path, seconds: float = 30.0) -> bool:
    """Whether a ``.wandb`` file has the record that W&B writes at the end of a run.

    Args:
        path: The file.
        seconds: How long to wait for it: an offline run is finished before its file is.
    """
    end = time.monotonic() + seconds
    while not has_end(path):
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True
