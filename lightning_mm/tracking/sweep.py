"""Log a sweep to loggers: its figures to any, and the whole record to Weights & Biases.

Save the result to disk first, so that no error of W&B can lose it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_mm.json_files import read_json
from lightning_mm.results.heat_map import write_heat_map
from lightning_mm.results.pictures import Picture
from lightning_mm.results.result import SweepResult
from lightning_mm.settings_files import without_secrets
from lightning_mm.tracking.folders import stage_in_run, staging_kept
from lightning_mm.tracking.logger import OfflineFirstWandbLogger
from lightning_mm.tracking.record import AdapterFiles, BaseFiles, SweepRecord, write_record


def sweep_scalars(result: SweepResult) -> dict[str, float]:
    """Return all finite figures of a sweep by key.

    With one method, the keys are ``sweep/<combination>/<metric>``, also with ``mean`` (of the incomplete combinations),
    ``worst``, ``full``, ``drop``, ``robustness`` or ``recovered_gap`` instead of the combination. With several methods
    they are ``sweep/<method>/<combination>/<metric>``.
    """
    return dict(SweepRecord(result).figures)


def log_sweep(logger: Logger, result: SweepResult) -> None:
    """Log figures to a logger; to Weights & Biases also table, charts, heat map, summary and the config.

    Args:
        logger: A Lightning logger.
        result: The sweep, already saved to disk.
    """
    log_result([logger], result)


@rank_zero_only
def log_result(
    loggers: Sequence[Logger],
    result: SweepResult,
    pictures: Sequence[Picture] = (),
    heat_map: Path | None = None,
    adapter: Path | None = None,
) -> None:
    """Log a sweep to several loggers, see :func:`log_sweep`.

    Args:
        loggers: Lightning loggers.
        result: The sweep, already saved to disk.
        pictures: Files of its predictions.
        heat_map: The file of its heat map; drawn if missing.
        adapter: The folder of the adapter that was swept, logged as an artifact.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            logger.log_metrics(sweep_scalars(result))
            logger.save()
            continue
        run: Any = logger.experiment
        temporary = tempfile.TemporaryDirectory(prefix="lightning_mm-wandb-")
        with staging_kept(), _guarded(logger) as works, temporary as folder:
            if not works:
                continue
            stage_in_run(run)
            # W&B copies the pictures here, before the folder is removed
            drawn = heat_map or write_heat_map(result, Path(folder) / "sweep.png")
            run.config.update({"sweep": without_secrets(dict(result.config))}, allow_val_change=True)
            files = [adapter_files(adapter, f"adapter-{run.id}")] if adapter is not None else []
            record = SweepRecord(result, pictures=pictures, heat_map=drawn)
            write_record(run, record, adapters=files, base=files[0].base if files else None)


@rank_zero_only
def log_fit(loggers: Sequence[Logger], facts: Mapping[str, Any]) -> None:
    """Add what a training took to the summaries of W&B runs: ``summary/parameters`` and ``summary/seconds``.

    Args:
        loggers: Lightning loggers; only those of W&B have a summary.
        facts: ``trained`` parameters, ``cpu_seconds``.
    """
    for logger in loggers:
        run: Any = getattr(logger, "_experiment", None)  # open already: a summary alone opens none
        if isinstance(logger, WandbLogger) and run is not None:
            with _guarded(logger) as works:
                if works:
                    summary = {"summary/parameters": facts["trained"], "summary/seconds": facts["cpu_seconds"]}
                    run.summary.update(summary)


def _guarded(logger: WandbLogger) -> AbstractContextManager[bool]:
    """A block in which a failure of W&B costs nothing but the record."""
    return logger.guarded() if isinstance(logger, OfflineFirstWandbLogger) else nullcontext(True)


def adapter_files(folder: Path, name: str, base: BaseFiles | None = None, **facts: Any) -> AdapterFiles:
    """A saved adapter with what its config says of it, for an artifact.

    Args:
        folder: Of the adapter.
        name: Of the artifact.
        base: Its base; by default what the config of the adapter says of it.
        facts: Further entries of the manifest.

    Raises:
        LightningMMError: If the config is damaged.
    """
    config = read_json(folder / "adapter_config.json", "save the adapter again")
    base = base or BaseFiles(str(config["base_fingerprint"]))
    told = {key: config.get(key) for key in ("kind", "basis", "modalities")}
    return AdapterFiles(name, folder, base, {**told, **facts})
