"""``lightning-mm merge``: the cells of a study are its table; other data and repeats are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_mm.cli import main
from lightning_mm.results import SweepResult, read, renamed, write_csv, write_json
from lightning_mm.results.files import write_samples
from lightning_mm.results.pictures import find_pictures
from tests.support.repository import REPOSITORY
from tests.support.sweep_results import classified

STUDY = REPOSITORY / "tests" / "files" / "written_by_20b60d7" / "study"


def write(result: SweepResult, folder: Path) -> str:
    write_csv(result, folder / "sweep.csv")
    write_json(result, folder / "sweep.json")
    write_samples(result, folder / "sweep_samples.npz")
    return str(folder)


def test_the_cells_of_a_study_are_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(STUDY / "study", tmp_path / "study")
    assert main(["merge", str(tmp_path / "study"), "--out", str(tmp_path / "out")]) == 0
    assert "2 seeds" in capsys.readouterr().out
    merged, table = read(tmp_path / "out"), read(STUDY / "report")
    assert sorted(map(str, merged.rows)) == sorted(map(str, table.rows))


def test_methods_and_seeds_that_were_run_apart(tmp_path: Path) -> None:
    one, other = classified(), classified(1)
    lora = renamed(replace(one, rows=[row for row in one.rows if row.method == "adapted"]), {"adapted": "lora"})
    folders = [write(result, tmp_path / str(place)) for place, result in enumerate((one, other, lora))]
    assert main(["merge", *folders, "--out", str(tmp_path / "out")]) == 0
    merged = read(tmp_path / "out")
    drawn = find_pictures(tmp_path / "out", merged.modalities)
    assert [(one.kind, one.combination) for one in drawn] == [
        ("confusion", name) for name in ("rgb", "depth", "rgb+depth")
    ]
    assert merged.methods == ["zero_fill", "adapted", "lora"]
    assert merged.seeds("adapted") == [0, 1]
    assert merged.value("lora", "rgb") == one.value("adapted", "rgb")
    np.testing.assert_array_equal(
        merged.samples["seed1/adapted/rgb/prediction"], other.samples["adapted/rgb/prediction"]
    )


def changed(result: SweepResult, what: str) -> SweepResult:
    """Another sweep that must not be merged with the first."""
    seed1 = replace(result, rows=[replace(row, seed=1) for row in result.rows])
    if what == "twice":
        return result
    if what == "part":
        return replace(result, rows=result.rows[:4])
    if what == "value":
        return replace(result, rows=[replace(result.rows[0], value=0.123), *seed1.rows[1:]])
    if what == "index":
        return replace(seed1, samples={**seed1.samples, "index": seed1.samples["index"] + 1})
    if what == "labels":
        targets = {k: np.roll(v, 1) if k.endswith("target") else v for k, v in seed1.samples.items()}
        return replace(seed1, samples=targets)
    if what == "data":
        return replace(seed1, config={"data_set": "lightning_mm.data.Ombria"})
    if what == "number":
        return replace(seed1, rows=[replace(row, n=9) for row in seed1.rows])
    assert what == "task"
    return replace(seed1, rows=[replace(row, metric="mae") for row in seed1.rows], primary_metric="mae")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("twice", "every figure of the first is in the second one too; leave one of them out"),
        ("part", "two sweeps of the same methods, combinations and seeds"),
        ("value", "two values for method 'zero_fill', combination 'rgb', metric 'accuracy', seed 0"),
        ("index", "was measured on other samples"),
        ("labels", "samples of the same index have other labels"),
        ("data", "different data sets (Ombria, Scenes)"),
        ("number", "on 30 samples by 'zero_fill' and on 9"),
        ("task", "no metric in common (accuracy; mae)"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    what: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = replace(classified(), config={"data_set": "lightning_mm.data.Scenes"})
    folders = [write(first, tmp_path / "first"), write(changed(first, what), tmp_path / "second")]
    assert main(["merge", *folders, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "sweep.csv").exists()
