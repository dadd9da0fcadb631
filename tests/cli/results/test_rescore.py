"""``lightning-mm rescore``: prints and writes other metrics, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_mm.cli import main
from lightning_mm.results import read, write_csv, write_json
from lightning_mm.results.files import write_samples
from tests.support.repository import REPOSITORY
from tests.support.sweep_results import classified

OWN = "def errors(statistics):\n    return (statistics['prediction'] != statistics['target']).mean()\n"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    result = classified()
    write_csv(result, tmp_path / "sweep.csv")
    write_json(result, tmp_path / "sweep.json")
    write_samples(result, tmp_path / "sweep_samples.npz")
    return tmp_path


def test_metrics_are_printed_and_written(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (sweep / "my_metrics.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(sweep))
    asked = ["--metric", "macro_f1", "recall_per_class", "my_metrics.errors", "--direction", "min"]
    assert main(["rescore", str(sweep), *asked, "--bootstrap", "30", "--out", str(sweep / "out")]) == 0
    printed = capsys.readouterr().out
    for title in ("macro_f1 in %", "recall_0 in %", "recall_2 in %", "errors"):
        assert title in printed
    written = read(sweep / "out")
    assert written.metrics == ["accuracy", "macro_f1", "recall_0", "recall_1", "recall_2", "errors"]
    assert written.direction("errors") == "min"
    assert written.value("adapted", "rgb", "errors") == pytest.approx(1 - written.value("adapted", "rgb"))
    assert written.interval("adapted", "rgb", "macro_f1") is not None
    np.testing.assert_array_equal(written.samples["adapted/rgb/target"], read(sweep).samples["adapted/rgb/target"])


def test_what_can_be_computed_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rescore", str(REPOSITORY / "experiments/results/mosi")]) == 0
    assert "accuracy, acc2, balanced_accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--metric", "ece"], 1, "ece needs probabilities"),
        (["--metric", "miou"], 1, "miou needs `confusion` of a segmentation; stored are prediction, target"),
        (["--metric", "nothing"], 1, "no metric 'nothing'; expected one of accuracy"),
        (["--metric", "no_module.metric"], 2, "cannot be imported"),
        (["--metric", "os.getcwd"], 1, "metric 'getcwd' failed on 30 samples (TypeError: "),
        (["--metric", "builtins.list"], 1, "takes {statistic: array} of prediction, target and returns a number"),
        (["--bootstrap", "-1"], 2, "--bootstrap: expected 0 or more, got -1"),
    ],
)
def test_mistakes_are_one_line(
    sweep: Path, more: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rescore", str(sweep), *more]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_without_samples_the_way_out_is_named(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "sweep_samples.npz").unlink()
    assert main(["rescore", str(sweep), "--metric", "macro_f1"]) == 1
    assert "sweep again with `lightning-mm sweep`, which writes sweep_samples.npz" in capsys.readouterr().err
