"""Results on damaged inputs: rows, files, a table and a picture; a table of their own, apart from combinations."""

from lightning_mm.results.corruption.files import read_corruption, remove_corruption, save_corruption
from lightning_mm.results.corruption.result import CorruptionResult, CorruptionRow

__all__ = ["CorruptionResult", "CorruptionRow", "read_corruption", "remove_corruption", "save_corruption"]
