"""Results on disk as data: long tables of every figure and every sample."""

from lightning_mm.results.stored.find import Stored, stored_sweeps
from lightning_mm.results.stored.load import StoredResults, load_results

__all__ = ["Stored", "StoredResults", "load_results", "stored_sweeps"]
