"""Results as data: every figure of the files, every sample that counts, with and without pandas."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_mm.errors import DataNotFoundError, LightningMMError
from lightning_mm.results import load_results, merge, read, renamed, write_csv, write_json
from lightning_mm.results.files import write_samples
from lightning_mm.results.result import SweepResult
from tests.support.repository import REPOSITORY
from tests.support.sweep_results import classified

RESULTS = REPOSITORY / "experiments" / "results"
STUDY = REPOSITORY / "tests" / "files" / "written_by_20b60d7" / "study"
"""A study of two seeds that an older version ran: ``study/`` has its cells, ``report/`` its table."""
CELLS = ("method", "combination", "metric", "seed")


def write(result: SweepResult, folder: Path) -> None:
    write_csv(result, folder / "sweep.csv")
    write_json(result, folder / "sweep.json")
    write_samples(result, folder / "sweep_samples.npz")


def figures(columns: Any) -> dict[tuple[Any, ...], float]:
    """(method, combination, metric, seed) to value; every figure is there once."""
    keys = list(zip(*(columns[name].tolist() for name in CELLS)))
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, columns["value"].tolist()))


def in_file(path: Path) -> dict[tuple[Any, ...], float]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["method"], row["combination"], row["metric"], int(row["seed"])): float(row["value"]) for row in rows}


@pytest.mark.parametrize("name", ["scenes", "mosi"])
def test_one_sweep_is_its_csv_and_its_samples(name: str) -> None:
    loaded, result = load_results(RESULTS / name, frames=False), read(RESULTS / name)
    assert figures(loaded.combinations) == in_file(RESULTS / name / "sweep.csv")
    assert set(loaded.combinations["direction"].tolist()) == {"max"}
    samples = loaded.samples
    assert {len(column) for column in samples.values()} == {len(samples["index"])}
    key = "zero_fill/rgb/confusion" if name == "scenes" else "seed1/adapted/text/score"
    *seed, method, combination, statistic = key.split("/")
    chosen = (samples["method"] == method) & (samples["combination"] == combination)
    chosen &= samples["seed"] == (int(seed[0][4:]) if seed else 0)
    np.testing.assert_array_equal(np.stack(samples[statistic][chosen]), result.samples[key])
    assert samples["index"][chosen].tolist() == result.samples["index"].tolist()
    assert set(samples["observed"][chosen].tolist()) == {result.full_combination}


@pytest.mark.parametrize("frames", [False, True])
def test_confusion_matrices_can_be_added_up(frames: bool) -> None:
    """Files hold them in 16 bits, which the pixels of a few pictures exceed."""
    samples, result = load_results(RESULTS / "ombria", frames=frames).samples, read(RESULTS / "ombria")
    chosen = (samples["method"] == "zero_fill") & (samples["combination"] == "s1_before") & (samples["seed"] == 0)
    total = sum(samples["confusion"][chosen])
    stored = result.select("zero_fill", "s1_before", "pixel_accuracy")[0]
    assert total.trace() / total.sum() == pytest.approx(stored.value)


def test_accuracy_can_be_computed_from_the_samples() -> None:
    loaded = load_results(RESULTS / "utd_mhad", frames=False)
    figure, samples = figures(loaded.combinations), loaded.samples
    right = samples["prediction"] == samples["target"]
    for (method, combination, metric, seed), value in figure.items():
        chosen = (samples["method"] == method) & (samples["combination"] == combination) & (samples["seed"] == seed)
        if metric == "accuracy" and chosen.any():
            assert right[chosen].mean() == pytest.approx(value)


def test_a_study_is_every_cell_and_not_its_table_again() -> None:
    loaded = load_results(STUDY, frames=False)
    assert figures(loaded.combinations) == in_file(STUDY / "report" / "sweep.csv")
    assert "study/full_finetune/depth/seed1/sweep" in set(loaded.combinations["folder"].tolist())
    chosen = load_results(STUDY, split="val", frames=False)
    assert {one.folder for one in chosen.sweeps} == {f"study/adapted/lr=0.0{k}/seed0/sweep_val" for k in (1, 3)}
    with pytest.raises(DataNotFoundError, match="found only those of another split than 'val'"):
        load_results(RESULTS / "scenes", split="val", frames=False)


def test_all_results_of_the_repository_are_read() -> None:
    loaded = load_results(RESULTS, frames=False)
    folders = set(loaded.combinations["folder"].tolist())
    assert {"scenes", "ombria", "utd_mhad"} <= folders
    assert len(loaded.combinations["value"]) == sum(len(one.result.rows) for one in loaded.sweeps)


def test_a_variant_of_dedicated_networks_has_its_name_in_the_study(tmp_path: Path) -> None:
    result = renamed(classified(), {"adapted": "dedicated"})
    rows = [row for row in result.rows if row.method == "dedicated" and row.combination == "rgb"]
    result = replace(result, rows=rows, samples={})
    for place in ("dedicated_small/rgb/lr=0.1/seed0", "dedicated_small/rgb/seed1"):
        cell = tmp_path / place
        write_csv(result, cell / "sweep" / "sweep.csv")
        (cell / "test.done.json").write_text(f'{{"command": ["sweep", "-c", "out/{place}/cell.yaml"]}}')
    other = replace(result, rows=[replace(row, seed=5) for row in rows])
    for place in ("elsewhere", "elsewhere_copied"):
        write_csv(other, tmp_path / place / "sweep" / "sweep.csv")
    columns = load_results(tmp_path, frames=False).combinations
    named = dict(zip(columns["folder"].tolist(), columns["method"].tolist()))
    assert named == {
        "dedicated_small/rgb/lr=0.1/seed0/sweep": "dedicated_small",
        "dedicated_small/rgb/seed1/sweep": "dedicated_small",
        "elsewhere/sweep": "dedicated",
    }


def test_sweeps_with_other_statistics_are_one_table(tmp_path: Path) -> None:
    one, other = classified(), classified(1)
    other.samples["zero_fill/rgb/score"] = np.linspace(0, 1, 30)
    write(one, tmp_path / "one")
    write(other, tmp_path / "other" / "deep")
    (tmp_path / "other" / "val").mkdir()
    write(replace(other, config={"split": "val"}), tmp_path / "other" / "val")
    loaded = load_results([tmp_path / "one", tmp_path / "other"], frames=False)
    assert {one.folder for one in loaded.sweeps} == {".", "deep"}
    known = ~np.isnan(loaded.samples["score"])
    assert known.sum() == 30
    assert set(loaded.samples["seed"][known].tolist()) == {1}
    assert len(load_results([tmp_path / "other"], split=None, frames=False).sweeps) == 2
    assert len(load_results(merged(tmp_path, one, other), frames=False).samples["index"]) == 2 * 2 * 3 * 30


def merged(folder: Path, *results: SweepResult) -> Path:
    write(merge(results), folder / "merged")
    return folder / "merged"


def test_frames_are_the_columns(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs the extra `frames`")
    write(classified(), tmp_path)
    frames, columns = load_results(tmp_path), load_results(tmp_path, frames=False)
    for name in ("combinations", "samples"):
        frame, plain = getattr(frames, name), getattr(columns, name)
        assert isinstance(frame, pandas.DataFrame)
        assert list(frame.columns) == list(plain)
        for column, values in plain.items():
            np.testing.assert_array_equal(frame[column].to_numpy(), values)
    right = frames.samples.assign(right=frames.samples.prediction == frames.samples.target)
    means = right.groupby(["method", "combination"]).right.mean()
    stored = frames.combinations.set_index(["method", "combination"]).value
    pandas.testing.assert_series_equal(means.sort_index(), stored.sort_index(), check_names=False)
    confusions = load_results(RESULTS / "scenes").samples.confusion
    assert confusions.iloc[0].shape == (6, 6)


def test_without_pandas_there_are_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # importing it fails
    write(classified(), tmp_path)
    loaded = load_results(tmp_path)
    assert isinstance(loaded.combinations, dict)
    with pytest.raises(LightningMMError, match=r"frames=True needs pandas: pip install .lightning-mm\[frames\]."):
        load_results(tmp_path, frames=True)


def test_a_folder_without_a_sweep_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"no sweep in .*sweep\.csv.* found none"):
        load_results(tmp_path)
    with pytest.raises(LightningMMError, match="one or more folders"):
        load_results([])
