"""Log a sweep to Weights & Biases: scalars, the table, the heat map, and the configuration.

Save the result to disk first, so that no error of W&B can lose it.
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
    """Return all finite figures of a sweep by key.

    With one method, the keys are ``sweep/<combination>/<metric>``, also with ``mean`` (of the incomplete combinations),
    ``worst``, ``full``, ``drop``, ``robustness`` or ``recovered_gap`` instead of the combination. With several methods
    they are ``sweep/<method>/<combination>/<metric>``.
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
    """Log scalars to any logger, and to Weights & Biases also ``sweep/table``, ``sweep/heat_map`` and the config.

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
        # W&B copies the picture here, before the folder is removed
        run.log(
            {**scalars, "sweep/table": wandb.Table(list(COLUMNS), rows), "sweep/heat_map": wandb.Image(str(picture))}
        )


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
