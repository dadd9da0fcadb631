"""The W&B run of a sweep that was run in shards, written when they are merged."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from lightning_mm.cli.lightning.run import own_wandb_run
from lightning_mm.results.pictures import Picture
from lightning_mm.results.result import SweepResult
from lightning_mm.tracking import OfflineFirstWandbLogger, log_result
from lightning_mm.tracking.follow import link_sweep


def log_shards(
    result: SweepResult,
    settings: Mapping[str, Any],
    pictures: Sequence[Picture],
    heat_map: Path,
    adapter: Path | None,
) -> None:
    """Log a merged sweep as the sweep of one process does; merged again, the same figures are the same run.

    Args:
        result: The merged sweep, already saved to disk.
        settings: Arguments of the logger in its configuration.
        pictures: Files of its predictions.
        heat_map: The file of its heat map.
        adapter: The folder of the adapter that was swept.
    """
    with own_wandb_run():
        if not settings.get("id") and "WANDB_RUN_ID" not in os.environ:
            settings = {**settings, "id": _id_of(result)}
        logger = OfflineFirstWandbLogger(**settings)
        logger.set_defaults(job_type="sweep")
        link_sweep([logger], result.config.get("ckpt_path"))
        log_result([logger], result, pictures, heat_map, adapter)


def _id_of(result: SweepResult) -> str:
    """An id for its run, which follows from its configuration and figures."""
    content = json.dumps([result.config, [astuple(row) for row in result.rows]], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
