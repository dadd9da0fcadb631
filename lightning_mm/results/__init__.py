"""Results of sweeps as plain data, and functions that read, write, draw and merge them; without torch.

Example:
    >>> from lightning_mm.results import SweepResult, SweepRow, markdown
    >>> rows = [
    ...     SweepRow("zero_fill", name, name.count("+") + 1, "miou", value, n=70, seed=0)
    ...     for name, value in {"rgb": 0.5, "depth": 0.3, "rgb+depth": 0.9}.items()
    ... ]
    >>> result = SweepResult(rows, modalities=["rgb", "depth"], primary_metric="miou")
    >>> result.mean("zero_fill"), result.worst("zero_fill"), result.drop("zero_fill")
    (0.4, ('depth', 0.3), 0.5)
    >>> print(markdown(result).splitlines()[4])
    |  | ● | ○ | 50.0 | 70 |
"""

from lightning_mm.results.bootstrap import Bootstrap
from lightning_mm.results.figures import Figure, Figures
from lightning_mm.results.files import read, save, write_csv, write_json
from lightning_mm.results.heat_map import heat_map, write_heat_map
from lightning_mm.results.merge import constant_rows, merge, renamed
from lightning_mm.results.per_sample.rescore import rescore
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import ADAPTED, DEDICATED, ZERO_FILL, SweepRow
from lightning_mm.results.stored.load import StoredResults, load_results
from lightning_mm.results.tables import markdown, summary_markdown
from lightning_mm.results.terminal import print_table, rich_table

__all__ = [
    "ADAPTED", "DEDICATED", "ZERO_FILL", "Bootstrap", "Figure", "Figures", "StoredResults", "SweepResult", "SweepRow",
    "constant_rows", "heat_map", "load_results", "markdown", "merge", "print_table", "read", "renamed", "rescore",
    "rich_table", "save", "summary_markdown", "write_csv", "write_heat_map", "write_json",
]  # fmt: skip
