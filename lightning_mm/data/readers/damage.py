"""What is said of a file that is damaged or not there, whatever its format."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from lightning_mm.errors import DataNotFoundError, LightningMMError

_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    NotImplementedError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)
"""NumPy, Pillow, zipfile, gzip and json report damage in all of these ways, depending on where it begins."""


def damaged(path: Path, reason: object) -> LightningMMError:
    """Make the error of a damaged file; the message names the file, the reason and the way out."""
    return LightningMMError(f"{path} is damaged ({reason}); copy it again from the source")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of opening and decoding a file into ours.

    Raises:
        DataNotFoundError: If the file is not there.
        PermissionError: If it may not be read.
        LightningMMError: If it is damaged.
    """
    try:
        yield
    except (LightningMMError, PermissionError):  # not damage: our own message, and a file that is there
        raise
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path} is not there; copy it from the source") from error
    except _DAMAGE as error:
        raise damaged(path, str(error) or type(error).__name__) from error
