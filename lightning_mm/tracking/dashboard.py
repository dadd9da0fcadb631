"""A workspace and a report of Weights & Biases over the runs of studies, see :mod:`lightning_mm.tracking.record`."""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_mm.errors import LightningMMError
from lightning_mm.files import write_atomically
from lightning_mm.tracking.logger import is_of_wandb
from lightning_mm.tracking.record.charts import HEAT_MAP, HEAT_MAP_COLUMNS, HEAT_MAP_PRESET, TABLE, heat_map_spec

INSTALL = "pip install 'lightning-mm[dashboard]'"
CHART = "lightning-mm-heat-map"
"""Name of the heat map that is saved as a preset of the account."""
REFUSED = ("So", "Sk", "Sm", "Sc", "Cs")
"""Unicode categories of characters that wandb-workspaces refuses in names: symbols and emojis."""
COLUMNS = ("mean", "worst", "full", "drop", "recovered_gap", "parameters", "seconds", "full_unchanged")
"""Columns of the table of runs that are shown first."""


@dataclass(frozen=True)
class Dashboard:
    """What is shown of a project.

    Args:
        entity: User or team; empty for a specification alone.
        project: The project.
        study: Show the runs of this study only; all by default.
        pictures: Keys of pictures of predictions.
        heat_map: Preset of the heat map; the one of W&B by default.
    """

    entity: str
    project: str
    study: str | None = None
    pictures: Sequence[str] = ()
    heat_map: str = HEAT_MAP_PRESET

    @property
    def title(self) -> str:
        """Title of the report and name of the workspace."""
        name = "".join(letter for letter in self.study or self.project if unicodedata.category(letter) not in REFUSED)
        return f"Missing modalities: {name}"[:128]

    @property
    def filter(self) -> str:
        """Which runs are shown, as W&B writes it."""
        # wandb-workspaces parses this as Python, but changes "<", "=" and ">" before, also in texts
        study = re.sub("[<=>]", lambda sign: f"\\x{ord(sign[0]):02x}", repr(self.study))
        return f"Metric('Group') = {study}" if self.study else ""

    def sections(self) -> dict[str, list[Any]]:
        """Heading to panels, in the order of workspace and report."""
        wr = _reports()
        summary, config = wr.SummaryMetric, wr.Config
        column = wr.ParallelCoordinatesPlotColumn
        heat_map = wr.CustomChart(
            query={"summaryTable": {"tableKey": f"{HEAT_MAP}_table"}},
            chart_name=self.heat_map,
            chart_fields={name: name for name in HEAT_MAP_COLUMNS},
            chart_strings={"title": "primary metric"},
            layout=wr.Layout(0, 0, 24, 14),
        )
        found = {
            "Sweep": [
                wr.WeavePanelSummaryTable(table_name=TABLE, layout=wr.Layout(0, 14, 24, 14)),
                heat_map,
            ],
            "Robustness": [
                wr.LinePlot(
                    title="Drop by number of missing modalities", x="curve/missing", y=["curve/primary"],
                    title_x="missing modalities", title_y="mean of the primary metric", groupby=config("method"),
                    groupby_aggfunc="mean", groupby_rangefunc="stddev", layout=wr.Layout(0, 0, 12, 10),
                ),
                wr.ScatterPlot(
                    title="Trained parameters and mean", x=summary("summary/parameters"), y=summary("summary/mean"),
                    log_x=True, layout=wr.Layout(12, 0, 12, 10),
                ),
                wr.BarPlot(
                    title="Mean of incomplete combinations", metrics=["summary/mean"], groupby=config("method"),
                    groupby_aggfunc="mean", groupby_rangefunc="stddev", layout=wr.Layout(0, 10, 12, 10),
                ),
                wr.ScalarChart(
                    title="Full combination unchanged", metric="summary/full_unchanged", groupby_aggfunc="min",
                    layout=wr.Layout(12, 10, 12, 10),
                ),
            ],
            "Adapters": [
                wr.ParallelCoordinatesPlot(
                    title="Kind, basis and placement",
                    columns=[
                        column(config("kind"), "kind"), column(config("basis"), "basis"),
                        column(config("placement"), "placement"),
                        column(summary("summary/parameters"), "parameters", log=True),
                        column(summary("summary/mean"), "mean"),
                    ],
                    layout=wr.Layout(0, 0, 24, 12),
                ),
                wr.RunComparer(diff_only="split", layout=wr.Layout(0, 12, 24, 12)),
            ],
        }  # fmt: skip
        pictures = ["sweep/heat_map", *self.pictures]
        found["Predictions"] = [
            wr.MediaBrowser(title="Predictions", media_keys=pictures, num_columns=2, layout=wr.Layout(0, 0, 24, 14))
        ]
        return found

    def workspace(self) -> Any:
        """A new ``wandb_workspaces.workspaces.Workspace``."""
        ws = _workspaces()
        sections = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in self.sections().items()]
        runs = ws.RunsetSettings(
            filters=self.filter,
            pinned_columns=[f"summary:summary/{name}" for name in COLUMNS],
        )
        return ws.Workspace(
            entity=self.entity, project=self.project, name=self.title, sections=sections, runset_settings=runs
        )

    def report(self) -> Any:
        """A new ``wandb_workspaces.reports.v2.Report``."""
        wr = _reports()
        blocks: list[Any] = [
            wr.P(
                "Every combination of available modalities, every method and seed. A mean is over the incomplete "
                "combinations; the full combination is unchanged (1) where a method gives exactly the base's figures."
            ),
            wr.TableOfContents(),
        ]
        for name, panels in self.sections().items():
            # without entity and project a runset is that of the report's project
            runs = wr.Runset(
                entity="", project="", name="study" if self.study else "all runs",
                filters=self.filter,
            )  # fmt: skip
            blocks += [wr.H1(name), wr.PanelGrid(runsets=[runs], panels=panels)]
        description = "Written by lightning-mm dashboard"
        return wr.Report(
            entity=self.entity, project=self.project, title=self.title, description=description, blocks=blocks,
            width="fluid",
        )  # fmt: skip


def specification(dashboard: Dashboard) -> dict[str, Any]:
    """Workspace, report and the heat map's preset as plain data, as W&B would get them; needs no network."""
    workspace, report = dashboard.workspace()._to_model(), dashboard.report()._to_model()
    return {
        "project": "/".join(part for part in (dashboard.entity, dashboard.project) if part),
        "workspace": {"name": workspace.display_name, "spec": _plain(workspace.spec)},
        "report": {"title": report.display_name, "spec": _plain(report.spec)},
        "chart": {"name": CHART, "spec": heat_map_spec()},
    }


def write_specification(dashboard: Dashboard, path: Path) -> Path:
    """Write :func:`specification` as JSON."""
    return write_atomically(path, f"{json.dumps(specification(dashboard), indent=1)}\n")


def save_dashboard(dashboard: Dashboard) -> dict[str, str]:
    """Save the heat map as a preset of the account, then workspace and report.

    Returns:
        ``{"workspace": address, "report": address}``.

    Raises:
        LightningMMError: If nobody is logged in, or W&B refuses.
    """
    import wandb

    _workspaces()
    try:
        api = wandb.Api()
        entity = dashboard.entity or str(api.default_entity or "")
        if not entity:
            raise LightningMMError("no user or team is known: give --entity, or log in with `wandb login`")
        chart = _save_chart(api, entity)
        shown = Dashboard(entity, dashboard.project, dashboard.study, dashboard.pictures, chart)
        workspace, report = shown.workspace().save(), shown.report().save()
    except Exception as error:
        if not is_of_wandb(error) and not isinstance(error, ValueError):
            raise
        reason = str(error).strip() or type(error).__name__
        raise LightningMMError(
            f"Weights & Biases: {reason}; log in with `wandb login`, or write the specification with --dry_run FILE"
        ) from error
    return {"workspace": str(workspace.url), "report": str(report.url)}


def _save_chart(api: Any, entity: str) -> str:
    """Save the heat map as a preset, and return its name; the one of W&B if the server takes no presets."""
    create = getattr(api, "create_custom_chart", None)  # of newer clients than 0.20
    if create is None:
        return HEAT_MAP_PRESET
    try:
        create(
            entity=entity, name=CHART, display_name="lightning-mm heat map", spec_type="vega2", access="private",
            spec=heat_map_spec(),
        )  # fmt: skip
    except Exception as error:
        if not is_of_wandb(error):
            raise
        return f"{entity}/{CHART}" if "exist" in str(error).lower() else HEAT_MAP_PRESET
    return f"{entity}/{CHART}"


def _plain(spec: Any) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(spec.model_dump_json(by_alias=True, exclude_none=True))
    return found


def _workspaces() -> Any:
    return _imported("wandb_workspaces.workspaces")


def _reports() -> Any:
    return _imported("wandb_workspaces.reports.v2")


def _imported(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pydantic, about its validators
            return import_module(name)
    except ImportError as error:
        raise LightningMMError(f"a dashboard needs wandb-workspaces: {INSTALL}") from error
