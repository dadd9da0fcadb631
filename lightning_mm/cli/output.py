"""What a command prints, in any encoding and into any pipe."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


def print_what_can_be_printed() -> None:
    """Print ``?`` for what the encoding of the output lacks, such as that of an older Windows terminal, and go on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def close_output() -> None:
    """Send what is still to be printed nowhere, so that the interpreter's last flush does not fail again."""
    with suppress(OSError, ValueError, io.UnsupportedOperation):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
