"""Results that are damaged, edited, or of another data set: the right figures, or one message."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_mm.errors import LightningMMError
from lightning_mm.results import merge, read, save
from tests.support.sweep_results import small_sweep


def test_a_table_cut_inside_a_number_is_refused(tmp_path: Path) -> None:
    save(small_sweep(), tmp_path)
    path = tmp_path / "sweep.csv"
    whole = path.read_bytes()
    (tmp_path / "sweep.json").unlink()
    assert len(read(path).rows) == 6
    lines = len(whole.splitlines())
    for end in range(len(whole) - 40, len(whole)):
        path.write_bytes(whole[:end])
        if whole[:end].endswith(b"\n"):
            assert len(read(path).rows) == lines - 2  # a whole table of fewer rows
            continue
        with pytest.raises(LightningMMError, match=r"cut off"):
            read(path)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("zero_fill,rgb,1,", "zero_fill,rgb,2,", "n_available: expected 1"),
        ("zero_fill,rgb,1,", "zero_fill,sound,1,", "unknown modality 'sound'"),
        ("zero_fill,rgb,1,", "adapted,rgb,1,", "two values for method 'adapted', combination 'rgb'"),
        ("zero_fill,rgb,1,", ",rgb,1,", "method is empty"),
        ("zero_fill,rgb,1,", "zero_fill,rgb,1_0,", "expected a number, got '1_0'"),
        (",6,0,", ",-6,0,", "expected n of 0 or more"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*was changed after the files next to it")
def test_rows_that_do_not_fit(old: str, new: str, expected: str, tmp_path: Path) -> None:
    save(small_sweep(), tmp_path)
    path = tmp_path / "sweep.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(LightningMMError, match=expected):
        read(replace_json(tmp_path))


def replace_json(folder: Path) -> Path:
    """Tie the JSON to the changed CSV, so that its modalities are known."""
    import zlib

    state = json.loads((folder / "sweep.json").read_text())
    state["csv_crc32"] = zlib.crc32((folder / "sweep.csv").read_bytes())
    (folder / "sweep.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("notes", "text", "notes: expected a valid list, got 'text'"),
        ("notes", [3], "notes.0: expected a valid string, got 3"),
        ("directions", {"accuracy": "up"}, "directions.accuracy: expected 'max' or 'min', got 'up'"),
        ("modalities", ["rgb", "rgb"], "modalities must be one or more distinct names"),
        ("modalities", 3, "modalities: expected a valid list"),
        ("primary_metric", "loss", r"primary_metric: expected one of \['accuracy'\], got 'loss'"),
        ("parameters", {"adapted": {"trained": 1.5}}, "parameters.adapted.trained: expected a valid integer, got 1.5"),
        ("seconds", {"adapted": -1}, "seconds.adapted: expected greater than or equal to 0, got -1"),
        ("bootstrap", {"key": "x", "level": 2}, "bootstrap.level: expected less than 1, got 2"),
        (
            "inference",
            {"adapted": {"flops": -1}},
            "inference.adapted.flops: expected greater than or equal to 0, got -1",
        ),
        ("inference_seconds", {"adapted": "1"}, "inference_seconds.adapted: expected a valid number, got '1'"),
        (
            "data_fingerprint",
            {"samples": "x", "observed": {}},
            "data_fingerprint.samples: expected String should match",
        ),
        ("data_fingerprint", {"samples": "0a" * 32}, r"it lacks the keys \['data_fingerprint.observed'\]"),
        ("more", 1, "unknown key 'more'"),
    ],
)
def test_each_field_is_checked(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    save(small_sweep(), tmp_path)
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(LightningMMError, match=expected) as caught:
        read(tmp_path)
    assert "remove it to read the CSV alone" in str(caught.value)


def test_costs_and_fingerprint_are_read_back_and_may_be_missing(tmp_path: Path) -> None:
    result = small_sweep()
    path = save(result, tmp_path)["json"]
    names = ("inference", "inference_seconds", "data_fingerprint")
    again = read(tmp_path)
    assert [getattr(again, name) for name in names] == [getattr(result, name) for name in names]
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in names}))
    old = read(tmp_path)
    assert [getattr(old, name) for name in names] == [{}, {}, None]
    assert old.rows == result.rows


def test_doubled_keys_and_deep_nests_are_no_json_of_ours(tmp_path: Path) -> None:
    save(small_sweep(), tmp_path)
    for content in (
        '{"notes": [], "notes": ["x"]}',
        '{"config": ' + "[" * 500 + "]" * 500 + "}",
        '{"notes": ["\\ud800"]}',
    ):
        (tmp_path / "sweep.json").write_text(content)
        with pytest.raises(LightningMMError, match=r"sweep\.json is not JSON"):
            read(tmp_path)


def test_results_of_different_data_are_not_put_together() -> None:
    one = small_sweep()
    other = replace(one, rows=[replace(row, seed=1) for row in one.rows])
    assert merge([one, other]).several_seeds
    config = {**one.config, "data": {"dataset": {"class_path": "lightning_mm.data.Ombria"}}}
    with pytest.raises(LightningMMError, match=r"different data sets \(Ombria, Scenes\)"):
        merge([one, replace(other, config=config)])
    moved = {**one.config, "data": {"dataset": {"class_path": "lightning_mm.data.datasets.scenes.Scenes"}}}
    assert merge([one, replace(other, config=moved)]).several_seeds, "the same class under its other name"
    with pytest.raises(LightningMMError, match="different data sets"):
        merge([merge([one, other]), replace(other, config=config, rows=[replace(row, seed=2) for row in one.rows])])
    labels = {key: (1 - value if key.endswith("/target") else value) for key, value in one.samples.items()}
    with pytest.raises(LightningMMError, match="samples of the same index have other labels"):
        merge([one, replace(other, samples=labels)])
    assert merge([one, replace(other, samples={**labels, "index": np.arange(6) + 6})]).several_seeds
