"""``lightning-mm report``: old results are reported, mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_mm.cli import main
from lightning_mm.results import SweepResult, SweepRow, read, write_csv, write_json
from tests.support.repository import REPOSITORY

RESULTS = REPOSITORY / "experiments" / "results"
QUICK = ("scenes", "mosi")
FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/sweep.csv"))


def written_page(name: str, folder: Path) -> tuple[str, SweepResult]:
    page = folder / f"{name}.html"
    assert main(["report", str(RESULTS / name), "--out", str(page)]) == 0
    assert page.with_suffix(".md").is_file()
    return page.read_text(encoding="utf-8"), read(RESULTS / name)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FOLDERS]
)
def test_stored_results_are_reported(name: str, tmp_path: Path) -> None:
    text, result = written_page(name, tmp_path)
    assert f"<title>{name} · lightning-mm</title>" in text
    for method in result.methods:
        for value in result.values(method).values():
            assert f'data-value="{value!r}"' in text
    assert "git revision" in text
    assert "Samples that a method loses" in text


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    values = {"rgb": 0.6, "depth": 0.5, "rgb+depth": 0.9}
    rows = [SweepRow("ssf", name, 1 + name.count("+"), "iou", value, 9, 0) for name, value in values.items()]
    result = SweepResult(rows, ["rgb", "depth"], "iou")
    write_csv(result, tmp_path / "sweep" / "sweep.csv")
    write_json(result, tmp_path / "sweep" / "sweep.json")
    return tmp_path / "sweep"


def test_the_page_is_written_into_the_folder(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(sweep)]) == 0
    assert capsys.readouterr().out == f"written: {sweep / 'report.html'}, {sweep / 'report.md'}\n"
    text = (sweep / "report.html").read_text(encoding="utf-8")
    assert "what is iou without any modality" in text
    assert f"<h1>{sweep.parent.name}</h1>" in text, "the folder `sweep` says nothing"
    assert main(["report", str(sweep / "sweep.csv"), "--empty", "0.2"]) == 0
    text = (sweep / "report.html").read_text(encoding="utf-8")
    assert "without any modality: 20.0" in text
    assert 'data-table="pairs"' in text
    (sweep / "study.json").write_text(json.dumps({"study": "mine", "command": "lightning-mm compare -c mine.yaml"}))
    assert main(["report", str(sweep), "--bundle", str(sweep / "site")]) == 0
    index = (sweep / "site" / "index.html").read_text(encoding="utf-8")
    assert "lightning-mm compare -c mine.yaml" in index
    assert "<h1>mine</h1>" in index


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["{sweep}/none"], 1, "no sweep at {sweep}/none"),
        (["{sweep}/empty"], 1, "no sweep in {sweep}/empty: expected a folder with a sweep.csv"),
        (["{sweep}", "--metric", "accuracy"], 2, "has iou; got 'accuracy'"),
        (["{sweep}", "--out", "{sweep}/page"], 2, "--out: expected a file named *.html, got {sweep}/page"),
        (["{sweep}", "{sweep}"], 2, "--out: several folders make one page"),
        (["{sweep}", "--out", "{sweep}/sweep.csv/page.html"], 1, "a folder is needed at {sweep}/sweep.csv"),
        (["{sweep}", "--bundle", "{sweep}/sweep.csv"], 1, "a folder is needed at {sweep}/sweep.csv"),
        (["{sweep}", "--empty", "none"], 2, "--empty"),
        (["{sweep}", "--pdf"], 2, "unrecognized arguments: --pdf"),
        ([], 2, "FOLDER"),
        (["{sweep}/broken"], 1, "is not a table of a sweep"),
    ],
)
def test_mistakes_are_one_line(
    sweep: Path, args: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep / "empty").mkdir()
    (sweep / "broken").mkdir()
    (sweep / "broken" / "sweep.csv").write_text("a,b\n1,2\n")
    assert main(["report", *(one.format(sweep=sweep) for one in args)]) == code
    error = capsys.readouterr().err
    assert said.format(sweep=sweep) in error
    assert error.count("\n") == 1
    assert not list(sweep.rglob("*.html"))
