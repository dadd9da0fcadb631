"""A sweep in Weights & Biases: scalars under stable keys, the table, the heat map, and the configuration.

Call it after the result was saved to disk: nothing that happens to W&B then loses a figure.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_mm.results.heat_map import write_heat_map
from lightning_mm.results.result import SweepResult
from lightning_mm.results.rows import COLUMNS


def sweep_scalars(result: SweepResult) -> dict[str, float]:
    """All figures of a sweep under their keys.

    With one method: ``sweep/<combination>/<metric>``, and in place of the combination also ``mean`` (of the incomplete
    ones), ``worst``, ``full``, ``drop``, ``robustness`` and ``recovered_gap``. With several methods the keys are
    ``sweep/<method>/<combination>/<metric>``. Figures that are not finite are left out.
    """
    found: dict[str, float] = {}
    methods = result.methods
    for method in methods:
        prefix = "sweep" if len(methods) == 1 else f"sweep/{method}"
        for metric in result.metrics:
            figures = {**result.summary(method, metric), **result.values(method, metric)}
            for name, value in figures.items():
                if isinstance(value, float) and math.isfinite(value):
                    found[f"{prefix}/{name}/{metric}"] = value
    return found


@rank_zero_only
def log_sweep(logger: Logger, result: SweepResult) -> None:
    """Log a sweep: scalars to any logger; to Weights & Biases also ``sweep/table``, ``sweep/heat_map`` and the config.

    Args:
        logger: A Lightning logger.
        result: The sweep, already saved to disk.
    """
    scalars = sweep_scalars(result)
    if not isinstance(logger, WandbLogger):
        logger.log_metrics(scalars)
        logger.save()
        return
    import wandb

    run = logger.experiment
    run.config.update({"sweep": dict(result.config)}, allow_val_change=True)
    rows = [[_cell(getattr(row, column)) for column in COLUMNS] for row in result.rows]
    with tempfile.TemporaryDirectory(prefix="lightning_mm-wandb-") as folder:
        picture = write_heat_map(result, Path(folder) / "sweep.png")
        # W&B copies the picture when it is logged, before the folder is removed.
        run.log(
            {**scalars, "sweep/table": wandb.Table(list(COLUMNS), rows), "sweep/heat_map": wandb.Image(str(picture))}
        )


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
