"""A dashboard as a specification without a network, and saved to a server on loopback and read back."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.cli import main
from lightning_mm.results import save
from lightning_mm.results.pictures import write_pictures
from lightning_mm.tracking import dashboard
from tests.support.sweep_results import small_sweep
from tests.support.wandb_server import ENTITY, environment, running_server

PANELS = [
    "Weave", "Vega2", "Run History Line Plot", "Scatter Plot", "Bar Chart", "Scalar Chart",
    "Parallel Coordinates Plot", "Run Comparer", "Media Browser",
]  # fmt: skip
"""Table, heat map, drop curves, parameters against mean, means, a scalar, kind x basis x placement, runs, pictures."""


def workspace_panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


def report_panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]


def check_panels(panels: list[dict[str, Any]]) -> None:
    assert [panel["viewType"] for panel in panels] == PANELS
    by_type = {panel["viewType"]: panel["config"] for panel in panels}
    line = by_type["Run History Line Plot"]
    assert (line["xAxis"], line["metrics"]) == ("curve/missing", ["curve/primary"])
    scatter = by_type["Scatter Plot"]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:summary/parameters", "summary:summary/mean")
    columns = [column["accessor"] for column in by_type["Parallel Coordinates Plot"]["columns"]]
    assert columns[:3] == ["config:kind.value", "config:basis.value", "config:placement.value"]
    assert by_type["Scalar Chart"]["metrics"] == ["summary/full_unchanged"]
    assert "sweep/table" in json.dumps(by_type["Weave"])
    assert "sweep/chart/heat_map_table" in json.dumps(by_type["Vega2"]["userQuery"])


def test_a_specification_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a dry run talked to somebody")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    save(small_sweep(), tmp_path / "report")
    write_pictures(small_sweep(), tmp_path / "report")
    place = tmp_path / "dashboard.json"
    assert (
        main(
            [
                "dashboard",
                "me/studies",
                "--study",
                "tiny",
                "--results",
                str(tmp_path / "report"),
                "--dry_run",
                str(place),
            ]
        )
        == 0
    )
    found = json.loads(place.read_text())
    assert found["project"] == "me/studies"
    check_panels(workspace_panels(found["workspace"]["spec"]))
    check_panels(report_panels(found["report"]["spec"]))
    (runs,) = found["workspace"]["spec"]["section"]["runSets"]
    (only,) = runs["filters"]["filters"]
    assert (only["key"], only["value"]) == ({"section": "run", "name": "group"}, "tiny")
    assert {"x_axis", "y_axis", "values"} == set(found_fields(found["chart"]["spec"]))


@pytest.mark.parametrize("study", ["lr=0.1 <$5>", 'it\'s "mine"', "多模态"])
def test_a_study_of_any_name(study: str, tmp_path: Path) -> None:
    place = tmp_path / "dashboard.json"
    assert main(["dashboard", "me/studies", "--study", study, "--dry_run", str(place)]) == 0
    (runs,) = json.loads(place.read_text())["workspace"]["spec"]["section"]["runSets"]
    assert [only["value"] for only in runs["filters"]["filters"]] == [study]


def found_fields(spec: dict[str, Any]) -> list[str]:
    text = json.dumps(spec)
    return [part.split("}")[0] for part in text.split("${field:")[1:]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["me/"], "PROJECT: expected a name such as lightning-mm or me/lightning-mm, got 'me/'"),
        (["a/b/c"], "PROJECT: expected a name such as lightning-mm or me/lightning-mm, got 'a/b/c'"),
        (["me/p", "--entity", "you"], "--entity: PROJECT names 'me', --entity 'you'; give one of them"),
    ],
)
def test_mistakes(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", *args]) == 2
    assert message in capsys.readouterr().err


def test_a_dashboard_is_saved_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    reports, workspaces = dashboard._reports(), dashboard._workspaces()
    with running_server() as server:
        for name, value in environment(server, str(tmp_path)).items():
            monkeypatch.setenv(name, value)
        server.run("run", "studies")
        assert main(["dashboard", "studies", "--study", "tiny"]) == 0
        said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": http" in line)
        assert set(said) == {"workspace", "report"}
        assert not server.unknown
        assert [chart["name"] for chart in server.charts] == ["lightning-mm-heat-map"]
        kinds = {view["type"]: json.loads(view["spec"]) for view in server.views.values()}
        check_panels(workspace_panels(kinds["project-view"]))
        check_panels(report_panels(kinds["runs"]))
        assert f"{ENTITY}/lightning-mm-heat-map" in json.dumps(kinds["project-view"])
        read = workspaces.Workspace.from_url(said["workspace"])
        assert [section.name for section in read.sections] == ["Sweep", "Robustness", "Adapters", "Predictions"]
        assert read.name == "Missing modalities: tiny"
        report = reports.Report.from_url(said["report"])
        assert report.title == "Missing modalities: tiny"
        grids = [block for block in report.blocks if isinstance(block, reports.PanelGrid)]
        assert [len(grid.panels) for grid in grids] == [2, 4, 2, 1]
