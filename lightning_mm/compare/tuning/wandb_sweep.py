"""A search as the config of a W&B sweep, whose agents run ``lightning-mm fit``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from lightning_mm.compare.cell_config import Run, command_of, resolve
from lightning_mm.compare.tuning.tune import CALLBACK, Tune
from lightning_mm.errors import LightningMMError, shown

RUN_ID = "${oc.env:WANDB_RUN_ID}"
"""Agents set it for each run; `${envvar:WANDB_RUN_ID}` of W&B would be the run before."""
SEED = "seed_everything"


def wandb_sweep(tune: Tune, run: Run) -> str:
    """Write a search as YAML that ``wandb sweep`` takes.

    Every run is one training: the seeds are values of the parameter ``seed_everything``, which a grid combines with the
    others, and of which a random search draws one for each run.

    Args:
        tune: The search.
        run: Runs a command of the command line.

    Raises:
        LightningMMError: If the configs log nothing to W&B, or a value cannot be passed by W&B.
    """
    for one in tune.parameters:
        if one.name.startswith(CALLBACK):
            raise LightningMMError(
                f"{one.name}: an agent of W&B passes parameters to `lightning-mm fit`, which takes no argument of one "
                "callback; leave it out of a W&B sweep"
            )
        if None in one.values:
            raise LightningMMError(f"{one.name}: W&B passes null as the text None; leave it out of a W&B sweep")
    logger = resolve(tune.configs, tune.settings, run)["trainer"].get("logger")
    project = _project(logger)
    own: dict[str, Any] = {"trainer.default_root_dir": str(tune.out / "wandb_sweep" / RUN_ID)}
    if isinstance(logger, Mapping):
        own["trainer.logger.init_args.name"] = None  # W&B names each run
    command = command_of("fit", tune.configs, {**own, **tune.settings})
    seeds = {"value": tune.seeds[0]} if len(tune.seeds) == 1 else {"values": list(tune.seeds)}
    content: dict[str, Any] = {
        "name": tune.name,
        **({"project": project} if project else {}),
        "program": "lightning-mm",
        "command": ["${env}", "lightning-mm", *command, "${args}"],
        "method": tune.method,
        "metric": {"name": tune.metric, "goal": tune.goal},
        **({"run_cap": tune.count} if tune.method == "random" else {}),
        "parameters": {**{one.name: one.content() for one in tune.parameters}, SEED: seeds},
    }
    head = "# wandb sweep FILE prints the command of an agent: wandb agent ENTITY/PROJECT/ID\n"
    head += "# Agents run in this folder, one training after the other; start as many as you like.\n"
    return head + yaml.safe_dump(content, sort_keys=False, width=1000)


def _project(logger: Any) -> str | None:
    """The project of the W&B logger of a config."""
    loggers = logger if isinstance(logger, list) else [logger]
    for one in loggers:
        if isinstance(one, Mapping) and "Wandb" in str(one.get("class_path")):
            project = (one.get("init_args") or {}).get("project")
            return project if isinstance(project, str) else None
    raise LightningMMError(
        f"trainer.logger: runs of a W&B sweep need a logger such as lightning_mm.tracking.OfflineFirstWandbLogger, got "
        f"{shown(logger)}"
    )
