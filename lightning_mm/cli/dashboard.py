"""``lightning-mm dashboard PROJECT``: a workspace and a report of Weights & Biases."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_mm.cli.errors import Parser
from lightning_mm.errors import UsageError


def run_dashboard(args: list[str]) -> None:
    """Save a dashboard, or write its specification."""
    parser = Parser(
        "lightning-mm dashboard",
        description="Build a workspace and a report of Weights & Biases over the runs of studies (key `wandb` of a "
        "study): table, heat map, drop curves, parameters against mean, run comparer, parallel coordinates over kind, "
        "basis and placement, predictions. Needs: pip install 'lightning-mm[dashboard]'",
        allow_abbrev=False,
    )
    parser.add_argument("project", metavar="PROJECT", help="the project, or ENTITY/PROJECT")
    parser.add_argument("--entity", help="user or team; by default WANDB_ENTITY, or that of the login")
    parser.add_argument("--study", help="show the runs of this study only; by default all of the project")
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="tables of the study: its pictures of predictions are shown"
    )
    parser.add_argument("--dry_run", type=Path, metavar="FILE", help="write the specification as JSON, send nothing")
    settings = parser.parse_args(args)
    entity, slash, project = settings.project.rpartition("/")
    if not project or "/" in entity or (slash and not entity):
        raise UsageError(f"PROJECT: expected a name such as lightning-mm or me/lightning-mm, got {settings.project!r}")
    if entity and settings.entity and entity != settings.entity:
        raise UsageError(f"--entity: PROJECT names {entity!r}, --entity {settings.entity!r}; give one of them")
    entity = entity or settings.entity or os.environ.get("WANDB_ENTITY", "")

    from lightning_mm.results.files import read
    from lightning_mm.results.pictures import find_pictures
    from lightning_mm.tracking.dashboard import Dashboard, save_dashboard, write_specification

    keys: list[str] = []
    if settings.results is not None:
        found = find_pictures(settings.results, read(settings.results).modalities)
        keys = [f"sweep/pictures/{one.kind}/{one.combination}" for one in found]
    dashboard = Dashboard(entity, project, settings.study, keys)
    if settings.dry_run is not None:
        print(f"written: {write_specification(dashboard, settings.dry_run)}")
        return
    for name, address in save_dashboard(dashboard).items():
        print(f"{name}: {address}")
