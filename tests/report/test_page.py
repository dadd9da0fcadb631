"""The page of a report: every figure of ``sweep.csv``, nothing from outside, no name that becomes markup."""

from __future__ import annotations

import base64
import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_mm.modality_names import ModalityNames
from lightning_mm.report import write_bundle, write_report
from lightning_mm.results import SweepResult, SweepRow, write_csv, write_json
from lightning_mm.results.corruption import CorruptionResult, CorruptionRow, save_corruption
from lightning_mm.results.files import write_samples
from lightning_mm.results.importance import importance_per_class

HOSTILE = "<script>alert('x')</script>&|[a](b)"
OUTSIDE = ("http:", "https:", "//", "file:")


class Page(HTMLParser):
    """What the tests need of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: dict[tuple[str, str, int], tuple[str, str]] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.downloads: dict[str, bytes] = {}
        self.scripts: list[str] = []
        self.visible: list[str] = []
        self._metric = self._combination = self._table = ""
        self._column = 0
        self._inside: str | None = None
        self._cell: str | None = None
        self._value: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        own = dict(attributes)
        self.tags.append((tag, own))
        self._inside = tag if tag in ("script", "style") else None
        self._metric = own.get("data-metric") or self._metric
        if tag == "a" and own.get("download"):
            self.downloads[str(own["download"])] = base64.b64decode(str(own["href"]).split("base64,")[1])
        if tag == "table":
            self._table = own.get("data-table") or ""
            self.tables.setdefault(self._table, [])
        if tag == "tr":
            self._combination, self._column = own.get("data-combination") or "", -1
            self.tables.get(self._table, []).append([])
        if tag in ("td", "th"):
            self._cell, self._column, self._value = "", self._column + 1, own.get("data-value")
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside is None:
            self.visible.append(data)
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = None if tag == self._inside else self._inside
        if tag in ("td", "th") and self._cell is not None:
            if self._table:
                self.tables[self._table][-1].append(self._cell)
            elif tag == "td" and self._combination and self._value is not None:
                self.figures[self._metric, self._combination, self._column - 1] = (self._value, self._cell)
            self._cell = None


def sweep(folder: Path, names: list[str], methods: list[str], seeds: int = 1, samples: int = 12) -> SweepResult:
    """A sweep with two metrics and the outcomes of its samples, on disk."""
    modalities, generator = ModalityNames(names), np.random.default_rng(0)
    target = np.arange(samples) % 3
    rows: list[SweepRow] = []
    statistics: dict[str, Any] = {"index": np.arange(samples) + 100, "observed": np.ones((samples, len(names)), bool)}
    for method in methods:
        for seed in range(seeds):
            for name in modalities.combinations():
                share = len(modalities.parse(name)) / len(names)
                prediction = np.where(generator.random(samples) < share, target, 3)
                prefix = f"seed{seed}/" if seeds > 1 else ""
                statistics[f"{prefix}{method}/{name}/prediction"] = prediction
                statistics[f"{prefix}{method}/{name}/target"] = target
                value, count = float((prediction == target).mean()), len(modalities.parse(name))
                ends = (value - 0.01, value + 0.01) if seeds == 1 else (None, None)
                rows.append(SweepRow(method, name, count, "accuracy", value, samples, seed, *ends))
                rows.append(SweepRow(method, name, count, "mae", 1 - value / 3, samples, seed))
    result = SweepResult(
        rows,
        names,
        "accuracy",
        {"accuracy": "max", "mae": "min"},
        {method: {"trained": 10**k, "base": 10**6} for k, method in enumerate(methods)},
        {"data": {"api_key": "hidden", "root": "x", "other": "${oc.env:KEY}"}},
        statistics,
        seconds=dict.fromkeys(methods, 3.0),
    )
    write_csv(result, folder / "sweep.csv")
    write_json(result, folder / "sweep.json")
    write_samples(result, folder / "sweep_samples.npz")
    return result


def page_of(folder: Path, **settings: Any) -> Page:
    return Page(write_report([folder], folder / "report.html", **settings)["html"].read_text(encoding="utf-8"))


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_figure_is_that_of_the_table(tmp_path: Path, seeds: int) -> None:
    result = sweep(tmp_path, ["rgb", "depth"], ["zero_fill", "adapted"], seeds)
    page = page_of(tmp_path)
    wanted = {
        (metric, name, column): result.value(method, name, metric)
        for metric in result.metrics
        for name in result.combinations
        for column, method in enumerate(result.methods)
    }
    assert {key: float(value) for key, (value, _) in page.figures.items()} == pytest.approx(wanted)
    assert all(
        text == (f"{100 * float(value):.1f}" if metric == "accuracy" else f"{float(value):.3f}")
        for (metric, *_), (value, text) in page.figures.items()
    )
    lines = list(csv.reader(io.StringIO((tmp_path / "sweep.csv").read_text())))
    assert page.tables["sweep"] == lines


def test_downloads_hold_the_same_figures(tmp_path: Path) -> None:
    result = sweep(tmp_path, ["rgb", "depth"], ["zero_fill", "adapted"])
    downloads = page_of(tmp_path).downloads
    name = tmp_path.name
    assert downloads[f"{name}_sweep.csv"] == (tmp_path / "sweep.csv").read_bytes()
    rows = list(csv.DictReader(io.StringIO(downloads[f"{name}_accuracy_summary.csv"].decode())))
    assert [row["method"] for row in rows] == ["zero_fill", "adapted"]
    assert [float(row["mean"]) for row in rows] == [result.mean(row["method"]) for row in rows]
    rows = list(csv.DictReader(io.StringIO(downloads[f"{name}_mae_combinations.csv"].decode())))
    assert {row["combination"]: float(row["adapted"]) for row in rows} == result.values("adapted", "mae")
    latex = downloads[f"{name}_accuracy_summary.tex"].decode()
    assert r"zero\_fill &" in latex
    assert latex.count(r" \\") == 3
    rows = list(csv.DictReader(io.StringIO(downloads[f"{name}_accuracy_importance.csv"].decode())))
    assert sum(float(rows[0][one]) for one in ("rgb", "depth")) == pytest.approx(float(rows[0]["full − empty"]))


def test_importance_of_every_class_is_shown(tmp_path: Path) -> None:
    result = sweep(tmp_path, ["rgb", "depth"], ["zero_fill", "adapted"])
    page = page_of(tmp_path)
    for method, groups in importance_per_class(result, result.methods, replicates=0).items():
        text = page.downloads[f"{tmp_path.name}_importance_per_class_{method}.csv"].decode()
        rows = {row[""]: row for row in csv.DictReader(io.StringIO(text))}
        assert list(rows) == [one.name for one in groups] == ["0", "1", "2"]
        shown = page.tables[f"importance_per_class_{method}"]
        for one, cells in zip(groups, shown[1:]):
            values = {name: figure.value for name, figure in one.importance.shapley.items()}
            assert {name: float(rows[one.name][name]) for name in values} == pytest.approx(values)
            assert cells[1:3] == [f"{100 * value:.1f}" for value in values.values()]


def test_samples_are_those_that_are_lost(tmp_path: Path) -> None:
    result = sweep(tmp_path, ["rgb", "depth"], ["zero_fill", "adapted"], seeds=3)
    page = page_of(tmp_path)
    data = json.loads(page.scripts[0])
    assert data["methods"] == ["zero_fill", "adapted"]
    assert data["combinations"] == ["rgb", "depth", "rgb+depth"]
    lost = np.zeros(12, int)
    for seed in range(3):
        own = {
            n: result.samples[f"seed{seed}/adapted/{n}/prediction"] == np.arange(12) % 3 for n in ("rgb", "rgb+depth")
        }
        lost += own["rgb+depth"] & ~own["rgb"]
    found = data["samples"]["1.0"]
    assert dict(found["lost_samples"]) == {100 + k: int(n) for k, n in enumerate(lost) if n}
    assert (found["against"], found["n"], found["seeds"]) == ("rgb+depth", 12, 3)
    assert found["lost"] == round(lost.sum() / 3, 1)
    assert [n for _, n in found["lost_samples"]] == sorted((n for _, n in found["lost_samples"]), reverse=True)


def test_lists_of_samples_are_bounded(tmp_path: Path) -> None:
    sweep(tmp_path, ["rgb", "depth"], ["zero_fill"], samples=400)
    cells = json.loads(page_of(tmp_path).scripts[0])["samples"].values()
    assert max(len(cell["lost_samples"]) for cell in cells) == 40
    assert max(cell["lost"] for cell in cells) > 40


def test_nothing_comes_from_outside_and_secrets_are_masked(tmp_path: Path) -> None:
    sweep(tmp_path, ["rgb", "depth"], ["zero_fill", "adapted"])
    page = page_of(tmp_path)
    addresses = [own.get(key) for _, own in page.tags for key in ("href", "src", "action", "data", "srcset")]
    assert [one for one in addresses if one and not one.startswith(("data:", "#"))] == []
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object"}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [one for one in OUTSIDE if f'"{one}' in text or f"({one}" in text or f"import {one}" in text] == []
    assert "hidden" not in page.visible
    assert any('"api_key": "***"' in one for one in page.visible)
    assert any('"other": "${oc.env:KEY}"' in one for one in page.visible), "a reference is no secret"


def test_names_are_never_markup(tmp_path: Path) -> None:
    sweep(tmp_path, ["<b>rgb</b>".replace("/", ":"), "depth"], ["zero_fill", HOSTILE.replace("/", ":")])
    page = page_of(tmp_path, title=HOSTILE)
    assert len(page.scripts) == 2, "the data and the script of the page"
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "<b>rgb" not in text
    assert json.loads(page.scripts[0])["methods"][1] == HOSTILE.replace("/", ":")
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown.replace("\\<", "")
    assert "](" not in markdown.replace("\\]", ""), "no link, and no picture from outside"
    rows = [
        line.replace("\\|", "") for line in markdown.splitlines() if line.startswith("| zero_fill") or "alert" in line
    ]
    widths = {line.count("|") for line in rows if line.startswith("|")}
    assert len(rows) > 2
    assert 1 not in widths
    latex = next(text for name, text in page.downloads.items() if name.endswith("summary.tex")).decode()
    assert r"\textless{}script\textgreater{}" in latex


def test_a_large_sweep_shows_the_ends_of_each_group_first(tmp_path: Path) -> None:
    names = list("abcdef")
    result = sweep(tmp_path, names, ["zero_fill", "adapted"])
    text = write_report([tmp_path], tmp_path / "report.html")["html"].read_text(encoding="utf-8")
    heat = text[text.index("scroll heat") : text.index("The same as a table")]
    assert [heat.count(f"{k} missing · ") for k in range(1, 6)] == [1] * 5
    assert "the other 14 of 20" in heat
    rows = {key[1] for key in Page(text).figures if key[0] == "accuracy"}
    assert rows == set(result.combinations)
    group = heat[heat.index("3 missing") : heat.index("the other 14 of 20")]
    shown = [one.split('"')[0] for one in group.split('data-combination="')[1:]]
    means = {
        name: np.mean([result.value(method, name) for method in result.methods])
        for name in result.combinations
        if name.count("+") == 2
    }
    ranked = sorted(means.values())
    assert sorted(means[name] for name in shown) == pytest.approx(sorted([*ranked[:3], *ranked[-3:]]))


def test_a_bundle_is_a_folder_of_files(tmp_path: Path) -> None:
    sweep(tmp_path / "one", ["rgb", "depth"], ["zero_fill"])
    sweep(tmp_path / "two", ["rgb", "depth"], ["zero_fill"], seeds=2)
    written = write_bundle([tmp_path], tmp_path / "site")
    assert written["html"] == tmp_path / "site" / "index.html"
    for name in ("one", "two"):
        folder = tmp_path / "site" / "tables" / name
        assert (folder / "sweep.csv").read_bytes() == (tmp_path / name / "sweep.csv").read_bytes()
        assert {"summary.csv", "summary.tex", "combinations.csv", "drop.tex"} <= {one.name for one in folder.iterdir()}
    page = Page(written["html"].read_text(encoding="utf-8"))
    assert [own["href"] for tag, own in page.tags if tag == "a" and str(own.get("href")).startswith("#")] == [
        "#s0",
        "#s1",
    ]
    assert [own["id"] for tag, own in page.tags if tag == "article"] == ["s0", "s1"]


def test_damaged_inputs_are_a_table(tmp_path: Path) -> None:
    sweep(tmp_path, ["rgb", "depth"], ["zero_fill", "adapted"])
    values = {("", "clean", 0): 0.9, ("rgb", "left_out", 0): 0.6, ("rgb", "salt_noise", 1): 0.8}
    rows = [
        CorruptionRow(method, *damage, "accuracy", value, 12, 0)
        for method in ("a", "b")
        for damage, value in values.items()
    ]
    rows.append(CorruptionRow("b", "rgb", "salt_noise", 5, "accuracy", 0.5, 12, 0))
    save_corruption(CorruptionResult(rows, "accuracy"), tmp_path)
    page = page_of(tmp_path)
    header, *lines = page.tables["corruption"]
    assert header == ["damaged", "a ↑", "b ↑"]
    assert lines[-1] == ["rgb: salt noise 5", "–", "50.0"]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| rgb: left out | 60.0 | 60.0 |" in text
    assert "| rgb: salt noise 1 | 80.0 | 80.0 |\n| rgb: salt noise 5 | – | **50.0** |" in text
    assert "corruption" not in page_of(tmp_path, metric="mae").tables


def test_equal_results_make_equal_pages(tmp_path: Path) -> None:
    sweep(tmp_path, ["rgb", "depth"], ["zero_fill"])
    page_of(tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    page_of(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first
