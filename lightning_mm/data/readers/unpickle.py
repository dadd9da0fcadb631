"""Reading pickles that hold arrays and plain containers, and nothing that could run code."""

from __future__ import annotations

import builtins
import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from lightning_mm.data.readers.damage import damaged, reading
from lightning_mm.errors import LightningMMError

_PLAIN = ("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple")


def read_pickle(path: Path) -> Any:
    """Read a pickle of NumPy arrays, numbers, texts and plain containers; nothing else is ever called.

    Files of Python 2 are read too, their strings as Latin-1, which keeps every byte.

    Args:
        path: The file.

    Raises:
        DataNotFoundError: If the file is not there.
        PermissionError: If it may not be read.
        LightningMMError: If it is damaged, or needs another class or function, which the message names.
    """
    with reading(path), path.open("rb") as file:
        try:
            return _PlainUnpickler(file, encoding="latin1").load()
        except _Refused as error:
            raise LightningMMError(
                f"{path} is no plain data: it asks for {error}, and unpickling that could run any code. Only NumPy "
                "arrays, numbers, texts and plain containers are read; copy the file again from the source, or save "
                "its content as such"
            ) from error
        except MemoryError as error:
            raise LightningMMError(f"{path} needs more memory than there is, or is damaged") from error
        # Any byte may be wrong, and with it any call that the file asks for.
        except Exception as error:
            raise damaged(path, f"{type(error).__name__}: {error}") from error


class _Refused(Exception):
    """The name of a class, function or object that a pickle needs and that is not allowed."""


class _PlainUnpickler(pickle.Unpickler):
    """Finds the parts of arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise _Refused(f"{module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"the persistent object {pid!r}")


def _encode(text: str, encoding: str) -> bytes:
    """Encode bytes as protocol 2 wrote them; other encodings are codecs that do more than that."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"the encoding {encoding!r}")
    return text.encode("latin1")


_NUMPY = {
    ("multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
}
"""Functions that NumPy's pickles call; taken from NumPy, whose modules are private and were renamed in NumPy 2."""

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"{core}.{module}", name): made
        for core in ("numpy.core", "numpy._core")
        for (module, name), made in _NUMPY.items()
    },
    **{(module, name): getattr(builtins, name) for module in ("builtins", "__builtin__") for name in _PLAIN},
    ("__builtin__", "unicode"): str,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
}
"""Module and name in a file, as NumPy 1 and 2 and Python 2 and 3 write them, to the object that is meant."""
