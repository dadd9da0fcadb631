"""``lightning-mm table``: differences, robustness and calibration, printed and written."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_mm.cli import main
from lightning_mm.results import read, write_csv, write_json
from lightning_mm.results.files import write_samples
from lightning_mm.results.per_sample.paired import differences
from tests.support.repository import REPOSITORY
from tests.support.sweep_results import classified

RESULTS = REPOSITORY / "experiments" / "results"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    result = classified()
    rng = np.random.default_rng(0)
    for key in [key for key in result.samples if key.endswith("target")]:
        begin = key.removesuffix("target")
        for name in ("confidence", "target_probability", "brier"):
            result.samples[f"{begin}{name}"] = rng.uniform(0.4, 1, 30).astype(np.float32)
    write_csv(result, tmp_path / "sweep.csv")
    write_json(result, tmp_path / "sweep.json")
    write_samples(result, tmp_path / "sweep_samples.npz")
    return tmp_path


def lines(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_differences_are_printed_and_written(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = sweep / "out"
    assert main(["table", str(sweep), "--against", "zero_fill", "--bootstrap", "50", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "accuracy in %: adapted against zero_fill" in printed
    assert "interval of paired resamples" in printed
    expected = differences(read(sweep), "zero_fill", replicates=50)
    written = lines(out / "against.csv")
    assert [line["combination"] for line in written] == ["rgb", "depth", "rgb+depth", "mean"]
    for line, one in zip(written, expected):
        assert one.figure.interval is not None
        assert float(line["difference"]) == one.figure.value
        assert (float(line["low"]), float(line["high"])) == one.figure.interval
        assert float(line["better"]) == one.better


def test_robustness_and_calibration(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out = sweep / "out"
    more = ["--p_available", "rgb=0.99", "depth=0.8", "--p_available", "{rgb: 0.5, depth: 1}", "--p_missing", "0.2"]
    assert main(["table", str(sweep), "--robustness", *more, "--bootstrap", "50", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for word in ("drop area", "effective", "E[p=0.2]", "E[rgb=0.99,depth=0.8]", "E[rgb=0.5,depth=1]", "ece", "brier"):
        assert word in printed
    result = read(sweep)
    values = result.values("adapted")
    found = {(line["method"], line["figure"], line["metric"]): line for line in lines(out / "robustness.csv")}
    expected = (0.99 * 0.2 * values["rgb"] + 0.01 * 0.8 * values["depth"] + 0.99 * 0.8 * values["rgb+depth"]) / 0.998
    line = found["adapted", "E[rgb=0.99,depth=0.8]", "accuracy"]
    assert float(line["value"]) == pytest.approx(expected)
    assert float(line["low"]) < expected < float(line["high"])
    brier = result.samples["adapted/rgb/brier"].astype(float).mean()
    assert float(found["adapted", "rgb", "brier"]["value"]) == pytest.approx(brier)
    curve = {(line["method"], line["p_missing"]): float(line["value"]) for line in lines(out / "p_missing.csv")}
    assert curve["adapted", "0"] == values["rgb+depth"]
    assert curve["adapted", "0.5"] == pytest.approx(sum(values.values()) / 3)
    assert (out / "p_missing.png").read_bytes()[1:4] == b"PNG"
    gap = [float(found[method, "effective 0-1", "accuracy"]["value"]) for method in ("zero_fill", "adapted")]
    assert sorted(gap) == [0, 1]


@pytest.mark.parametrize("name", ["scenes", "mosi"])
def test_results_of_older_versions(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(RESULTS / name), "--against", "zero_fill", "--robustness", "--bootstrap", "100"]) == 0
    printed = capsys.readouterr().out
    assert "adapted against zero_fill" in printed
    assert ("no calibration: ece needs probabilities" in printed) == (name == "scenes")


def test_without_samples_it_says_so(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "sweep_samples.npz").unlink()
    assert main(["table", str(sweep), "--against", "zero_fill", "--robustness"]) == 0
    printed = capsys.readouterr().out
    assert "no intervals: no statistics of samples are stored" in printed
    assert "no calibration" in printed


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--against", "lora"], 2, "--against: these sweeps have zero_fill, adapted; got 'lora'"),
        (["--robustness", "--reference", "lora"], 2, "--reference: these sweeps have zero_fill, adapted"),
        (["--robustness", "--p_available", "rgb"], 2, "--p_available: expected MODALITY=P"),
        (["--robustness", "--p_available", "rgb=2"], 2, "with P between 0 and 1, got 'rgb=2'"),
        (["--robustness", "--p_available", "lidar=0.5"], 1, "unknown modality 'lidar'"),
        (["--robustness", "--p_available", "rgb=1", "rgb=0.5"], 2, "--p_available: 'rgb' is there twice"),
        (["--robustness", "--p_missing", "1"], 2, "--p_missing: expected numbers of at least 0 and below 1, got 1"),
        (["--p_missing", "0.1"], 2, "belong to --robustness"),
        (["--bootstrap", "-1"], 2, "--bootstrap: expected 0 or more"),
    ],
)
def test_mistakes_are_one_line(
    sweep: Path, more: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table", str(sweep), *more, "--out", str(sweep / "out")]) == code
    error = capsys.readouterr().err
    assert said in error
    assert not (sweep / "out").exists()
    assert error.count("\n") == 1


def test_a_method_that_shares_nothing_is_said(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read(sweep)
    rows = [row for row in result.rows if (row.method == "adapted") == (row.combination == "rgb")]
    write_csv(replace(result, rows=rows), sweep / "apart" / "sweep.csv")
    assert main(["table", str(sweep / "apart"), "--against", "zero_fill"]) == 1
    assert "no other method has a combination in common" in capsys.readouterr().err
