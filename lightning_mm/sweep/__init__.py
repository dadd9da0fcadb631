"""The sweep: evaluates all combinations of available modalities in one run; see also :mod:`lightning_mm.results`."""

from lightning_mm.results.merge import constant_rows, merge
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import ADAPTED, DEDICATED, ZERO_FILL, SweepRow
from lightning_mm.sweep.corruption.run import corruption_sweep
from lightning_mm.sweep.run import sweep

__all__ = [
    "ADAPTED", "DEDICATED", "ZERO_FILL", "SweepResult", "SweepRow", "constant_rows", "corruption_sweep", "merge",
    "sweep",
]  # fmt: skip
