"""``lightning-mm importance``: prints, writes, and says what is missing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lightning_mm.cli import main
from lightning_mm.results import SweepResult, SweepRow, write_csv, write_json

VALUES = {"rgb": 0.6, "depth": 0.5, "rgb+depth": 0.9}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    rows = [
        SweepRow(method, name, 1 + name.count("+"), "accuracy", value, 9, 0)
        for method in ("ssf", "dedicated")
        for name, value in VALUES.items()
        if method == "ssf" or "+" not in name
    ]
    result = SweepResult(rows, ["rgb", "depth"], "accuracy")
    write_csv(result, tmp_path / "sweep.csv")
    write_json(result, tmp_path / "sweep.json")
    return tmp_path


def test_values_are_printed_and_written(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["importance", str(sweep), "--empty", "0.2", "--out", str(sweep / "out")]) == 0
    printed = capsys.readouterr().out
    assert [word in printed for word in ("40.0", "30.0", "70.0", "rgb x depth", "0.0")] == [True] * 5
    assert "left out: Shapley values need all combinations of 'dedicated'" in printed
    rows = list(csv.DictReader((sweep / "out" / "importance.csv").read_text().splitlines()))
    assert [(row["method"], row["of"], round(float(row["value"]), 6)) for row in rows] == [
        ("ssf", "rgb", 0.4),
        ("ssf", "depth", 0.3),
        ("ssf", "rgb x depth", 0.0),
    ]
    assert (sweep / "out" / "importance.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ([], 1, "what is accuracy without any modality"),
        (["--empty", "0", "--metric", "iou"], 2, "--metric: this sweep has accuracy; got 'iou'"),
        (["--empty", "0", "--methods", "dedicated"], 1, "it lacks 'rgb+depth'"),
        (["--empty", "0", "--methods", "lora"], 1, "this sweep has ['ssf', 'dedicated']"),
    ],
)
def test_mistakes_are_one_line(
    sweep: Path, more: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["importance", str(sweep), *more]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
