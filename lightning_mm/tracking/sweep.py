"""A sweep in Weights & Biases: scalars under stable keys, the table, the heat map, and the configuration.

Call it after the result was saved to disk: nothing that happens to W&B then loses a figure.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

COLUMNS = ("method", "combination", "n_available", "metric", "value", "n", "seed", "low", "high")


@runtime_checkable
class Row(Protocol):
    """One figure of a sweep."""

    @property
    def method(self) -> str: ...
    @property
    def combination(self) -> str: ...
    @property
    def metric(self) -> str: ...


@runtime_checkable
class Sweep(Protocol):
    """What is needed of :class:`lightning_mm.sweep.SweepResult`, which lies above this room."""

    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def methods(self) -> list[str]: ...
    @property
    def metrics(self) -> list[str]: ...
    def values(self, method: str, metric: str | None = None) -> dict[str, float]: ...
    def summary(self, method: str, metric: str | None = None) -> dict[str, Any]: ...
    def to_png(self, path: str | Path) -> Path: ...


def sweep_scalars(result: Sweep) -> dict[str, float]:
    """All figures of a sweep under their keys.

    With one method: ``sweep/<combination>/<metric>``, and in the place of the combination also ``mean`` (of
    the incomplete ones), ``worst``, ``full``, ``drop``, ``robustness`` and ``recovered_gap``. With several methods none
    of them is chosen for you: the keys are ``sweep/<method>/<combination>/<metric>``. Figures that do not exist are
    left out.
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
def log_sweep(logger: Logger, result: Sweep) -> None:
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
        picture = result.to_png(Path(folder) / "sweep.png")
        # The media are copied into the run when they are logged, before the folder goes.
        run.log(
            {**scalars, "sweep/table": wandb.Table(list(COLUMNS), rows), "sweep/heat_map": wandb.Image(str(picture))}
        )


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
