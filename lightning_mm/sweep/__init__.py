"""The sweep: all combinations of available modalities in one run, and what they cost.

Example:
    >>> from lightning_mm.sweep import SweepResult, SweepRow
    >>> rows = [
    ...     SweepRow("zero_fill", name, name.count("+") + 1, "miou", value, n=70, seed=0)
    ...     for name, value in {"rgb": 0.5, "depth": 0.3, "rgb+depth": 0.9}.items()
    ... ]
    >>> result = SweepResult(rows, modalities=["rgb", "depth"], primary_metric="miou")
    >>> result.mean("zero_fill"), result.worst("zero_fill"), result.drop("zero_fill")
    (0.4, ('depth', 0.3), 0.5)
"""

from lightning_mm.results.merge import constant_rows, merge
from lightning_mm.results.result import ADAPTED, DEDICATED, ZERO_FILL, SweepResult, SweepRow
from lightning_mm.sweep.run import sweep

__all__ = ["ADAPTED", "DEDICATED", "ZERO_FILL", "SweepResult", "SweepRow", "constant_rows", "merge", "sweep"]
