"""``lightning-mm demo``: its commands, its files, and what it says about its figures."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from lightning_mm.cli import main
from lightning_mm.cli.demo import against_stored, experiments_folder
from lightning_mm.errors import DataNotFoundError
from lightning_mm.results import SweepResult, SweepRow, read

COMBINATIONS = ["rgb", "depth", "thermal", "rgb+depth", "rgb+thermal", "depth+thermal", "rgb+depth+thermal"]


def test_the_demo_says_where_it_looked_for_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lightning_mm.cli.demo.__file__", str(tmp_path / "site" / "lightning_mm" / "cli" / "demo.py"))
    with pytest.raises(DataNotFoundError, match="_experiments/scenes"):
        experiments_folder()


@pytest.mark.parametrize(("full", "words"), [(0.895, "within 1 point"), (0.88, "MORE than 1 point away")])
def test_figures_against_those_that_are_stored(full: float, words: str, tmp_path: Path) -> None:
    rows = [
        SweepRow(method, name, name.count("+") + 1, "miou", full if name == "a+b" else value, 9, 0)
        for method, value in (("zero_fill", 0.4), ("adapted", 0.6), ("dedicated", 0.8))
        for name in ("a", "b", "a+b")[: 2 if method == "dedicated" else 3]
    ]
    (tmp_path / "expected.json").write_text(json.dumps({"full": 90, "mean_zero_fill": 41, "mean_adapted": 62}))
    said = against_stored(SweepResult(rows, ["a", "b"], "miou"), tmp_path / "expected.json")
    assert f"before and after, the same figure; stored with the experiment: 90.0 ({words})" in said
    assert "40.0 before, 60.0 after (+20.0 points); stored: 41.0 and 62.0" in said
    assert "Recovered gap to the dedicated networks: 50 %" in said


@pytest.mark.slow
def test_the_demo_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--fast", "--out", "here"]) == 0
    out = capfd.readouterr().out
    assert "The report is in here/report: sweep.md, sweep.png, sweep.csv, sweep.json" in out
    figures = {(row.method, row.combination) for row in read(Path("here/report")).rows}
    expected = {(method, one) for method in ("zero_fill", "adapted") for one in COMBINATIONS}
    assert figures == expected | {("dedicated", name) for name in ("rgb", "depth", "thermal")}
    assert all(Path("here/report", name).stat().st_size > 0 for name in ("sweep.png", "sweep.md", "sweep.json"))
    commands = [shlex.split(line)[1:] for line in re.findall(r"^\$ (lightning-mm .*)$", out, re.MULTILINE)]
    verbs = [command[0] for command in commands]
    assert sorted(verbs) == ["fit"] * 5 + ["sweep"] * 5
    assert main(commands[-1]) == 0, "every command can be repeated"
