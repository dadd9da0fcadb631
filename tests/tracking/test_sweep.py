"""An offline run of a sweep, read back with W&B's own reader."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from lightning_mm import Modalities
from lightning_mm.results import SweepResult, SweepRow
from lightning_mm.tracking import OfflineFirstWandbLogger, log_sweep, sweep_scalars
from lightning_mm.tracking.folders import DATA_DIR, stage_in_run, staging_kept, sync_command, written_step
from lightning_mm.tracking.log_file import last_step

NAMES = ["rgb", "depth"]


def build(methods: list[str]) -> SweepResult:
    rows = [
        SweepRow(method, combination, combination.count("+") + 1, metric, (1 + i + 2 * m) / 10, 7, 3, 0.01, 0.99)
        for m, method in enumerate(methods)
        for i, combination in enumerate(Modalities(NAMES).combinations())
        for metric in ("miou", "pixel_accuracy")
    ]
    rows.append(SweepRow(methods[0], "rgb", 1, "iou_car", math.nan, 7, 3))
    return SweepResult(rows, NAMES, "miou", config={"split": "test", "data": {"batch_size": 4}})


def inspect(folder: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("NETRC", str(folder / "nobody"))
        logger = OfflineFirstWandbLogger(project="test", save_dir=str(folder), group="seeds", flush_seconds=1.0)
        log_sweep(logger, build(["zero_fill", "adapted"]))
        logger.experiment.finish()
    (found,) = (folder / "wandb").glob("offline-run-*")
    return found


def test_scalars_and_config_are_in_the_run(run_folder: Path) -> None:
    records = inspect(run_folder)
    history = {}
    for record in records:
        if record["type"] == "history":
            history.update(record["history"]["item"])
    result = build(["zero_fill", "adapted"])
    for row in result.rows:
        key = f"sweep/{row.method}/{row.combination}/{row.metric}"
        if math.isnan(row.value):
            assert key not in history
        else:
            assert history[key] == pytest.approx(row.value)
    assert history["sweep/adapted/mean/miou"] == pytest.approx(0.35)
    assert history["sweep/adapted/worst/miou"] == pytest.approx(0.3)
    assert history["sweep/zero_fill/robustness/miou"] == pytest.approx((0.3 + 0.15) / 2)
    configs = [record["config"]["update"] for record in records if record["type"] == "config"]
    assert {"split": "test", "data": {"batch_size": 4}} in [config.get("sweep") for config in configs]


def test_table_and_picture_are_in_the_run(run_folder: Path) -> None:
    (entry,) = [
        record["history"]["item"]
        for record in inspect(run_folder)
        if record["type"] == "history" and "sweep/table.path" in record["history"]["item"]
    ]
    assert int(entry["sweep/table.nrows"]) == 13
    table = json.loads((run_folder / "files" / entry["sweep/table.path"]).read_text())
    assert table["columns"][:7] == ["method", "combination", "n_available", "metric", "value", "n", "seed"]
    assert ["adapted", "rgb+depth", 2, "miou", 0.5, 7, 3, 0.01, 0.99, "max"] in table["data"]
    assert ["zero_fill", "rgb", 1, "iou_car", None, 7, 3, None, None, "max"] in table["data"]
    items = [record["history"]["item"] for record in inspect(run_folder) if record["type"] == "history"]
    (place,) = [item["sweep/heat_map.path"] for item in items if "sweep/heat_map.path" in item]
    picture = run_folder / "files" / place
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_method_has_the_plain_keys() -> None:
    scalars = sweep_scalars(build(["zero_fill"]))
    assert scalars["sweep/rgb/miou"] == pytest.approx(0.1)
    assert scalars["sweep/rgb+depth/pixel_accuracy"] == pytest.approx(0.3)
    assert scalars["sweep/mean/miou"] == pytest.approx(0.15)
    assert scalars["sweep/worst/miou"] == pytest.approx(0.1)
    assert scalars["sweep/robustness/miou"] == pytest.approx((0.3 + 0.15) / 2)
    assert "sweep/rgb/iou_car" not in scalars


def test_other_loggers_get_the_scalars(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    log_sweep(logger, build(["zero_fill"]))
    (row,) = csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines())
    assert float(row["sweep/rgb/miou"]) == pytest.approx(0.1)


def test_files_of_artifacts_wait_in_the_folder_of_the_run(run_folder: Path) -> None:
    staged = [path for path in (run_folder / "lightning-mm-data").rglob("*") if path.is_file()]
    assert any(b'"columns"' in path.read_bytes() for path in staged), "the table"


def test_the_last_step_is_read_from_the_file_of_a_run(run_folder: Path, tmp_path: Path) -> None:
    (log,) = run_folder.glob("*.wandb")
    steps = [r["history"]["item"]["_step"] for r in inspect(run_folder) if r["type"] == "history"]
    assert last_step(log) == max(map(int, steps))
    content, cut = log.read_bytes(), tmp_path / "cut.wandb"
    found = []
    for size in range(0, len(content), 997):
        cut.write_bytes(content[:size])
        found.append(last_step(cut))
    assert found == sorted(found)
    assert found[0] == -1
    cut.write_bytes(content[:100] + b"\xff" * 50 + content[150:])
    assert last_step(cut) <= last_step(log), "damage is no error"


def test_all_parts_of_an_offline_run_are_uploaded_in_order(run_folder: Path, tmp_path: Path) -> None:
    (log,) = run_folder.glob("*.wandb")
    identity = log.stem.removeprefix("run-")
    stamps = ("20260102_000000", "20260101_000000", "20260103_000000", "20260104_000000")
    parts = [tmp_path / "a b" / "wandb" / f"offline-run-{stamp}-{identity}" for stamp in stamps]
    for part in parts:
        part.mkdir(parents=True)
    for part in parts[:2]:
        (part / log.name).write_bytes(log.read_bytes())
    (parts[3] / log.name).write_bytes(log.read_bytes()[:7])  # killed before anything was written
    run = SimpleNamespace(id=identity, dir=str(parts[2] / "files"))
    assert sync_command(run) == f"wandb sync '{parts[1]}' '{parts[0]}' '{parts[2]}'"
    (parts[1] / f"{log.name}.synced").touch()
    assert sync_command(run) == f"wandb sync '{parts[0]}' '{parts[2]}'"
    assert written_step(tmp_path / "a b", identity) == last_step(log)
    assert written_step(tmp_path / "a b", "other") is None
    assert sync_command(SimpleNamespace(id="x", dir=str(tmp_path / "run-20260101_000000-x" / "files"))) is None


def test_a_place_that_the_user_has_named_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = SimpleNamespace(id="x", dir=str(tmp_path / "offline-run-20260101_000000-x" / "files"))
    monkeypatch.setenv(DATA_DIR, "/data/mine")
    with staging_kept():
        stage_in_run(run)
        assert os.environ[DATA_DIR] == "/data/mine"
    monkeypatch.delenv(DATA_DIR)
    with staging_kept():
        stage_in_run(run)
        assert os.environ[DATA_DIR] == str(tmp_path / "offline-run-20260101_000000-x" / "lightning-mm-data")
        run.dir = str(tmp_path / "offline-run-20260102_000000-x" / "files")
        stage_in_run(run)
        assert "20260102" in os.environ[DATA_DIR], "the one of the run before is ours"
    assert DATA_DIR not in os.environ
