"""``lightning-mm importance``: prints, writes, and says what is missing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from lightning_mm.cli import main
from lightning_mm.results import SweepResult, SweepRow, write_csv, write_json
from lightning_mm.results.files import write_samples
from tests.support.sweep_results import classified

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
        (["--empty", "majority"], 1, "--empty majority: no labels of samples are stored"),
        (["--empty", "half"], 2, "--empty: expected a number or `majority`, got 'half'"),
        (["--empty", "nan"], 2, "--empty: expected a number or `majority`, got 'nan'"),
        (["--empty", "0", "--groups", "nowhere.csv"], 1, "no groups at nowhere.csv"),
        (["--empty", "0", "--group_by", "actor"], 2, "--group_by names a column of --groups"),
        (["--empty", "0", "--bootstrap", "-1"], 2, "--bootstrap: expected 0 or more"),
        (["--empty", "0", "--per_class"], 1, "no per-sample statistics"),
        (["--empty", "0", "--metric", "iou"], 2, "--metric: this sweep has accuracy; got 'iou'"),
        (["--empty", "0", "--methods", "dedicated"], 1, "it lacks 'rgb+depth'"),
        (["--empty", "0", "--methods", "lora"], 1, "this sweep has ['ssf', 'dedicated']"),
    ],
)
def test_mistakes_are_one_line(
    sweep: Path, more: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["importance", str(sweep), *more, "--out", str(sweep / "out")]) == code
    error = capsys.readouterr().err
    assert said in error
    assert not (sweep / "out").exists()
    assert error.count("\n") == 1


def test_the_majority_and_groups_come_from_stored_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    result = classified()
    write_csv(result, tmp_path / "sweep.csv")
    write_json(result, tmp_path / "sweep.json")
    write_samples(result, tmp_path / "sweep_samples.npz")
    index = result.samples["index"].tolist()
    (tmp_path / "groups.csv").write_text("index,actor/no\n" + "".join(f"{k},a{k % 2}\n" for k in index))
    more = ["--per_class", "--groups", str(tmp_path / "groups.csv"), "--group_by", "actor/no", "--bootstrap", "20"]
    for empty in ([], ["--empty", "majority"]):
        assert main(["importance", str(tmp_path), *empty, *more, "--out", str(tmp_path / "out")]) == 0
        printed = capsys.readouterr().out
        assert "without any modality: 0.3333 (share of the most frequent label)" in printed
        assert "adapted, recall in %: what each modality adds, by class" in printed
        assert "zero_fill, accuracy in %: what each modality adds, by actor/no" in printed
    rows = list(csv.DictReader((tmp_path / "out" / "importance_per_actor_no.csv").read_text().splitlines()))
    assert {(row["actor/no"], row["n"]) for row in rows} == {("a0", "15"), ("a1", "15")}
    for row in rows:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"importance.csv", "importance_per_class.csv", "importance_per_class_adapted.png"} <= names
