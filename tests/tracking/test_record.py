"""A study in offline runs, read back with W&B's own reader: figure by figure what ``sweep.csv`` holds."""

from __future__ import annotations

import csv
import errno
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_mm.compare.record import _adapter_settings
from lightning_mm.errors import LightningMMError
from lightning_mm.results import SweepResult, read
from lightning_mm.tracking.log_file import BLOCK
from lightning_mm.tracking.record import PlannedRun, SweepRecord, write_runs
from lightning_mm.tracking.record.content import full_unchanged
from lightning_mm.tracking.record.whole import is_whole
from tests.support.offline_run import OfflineRun
from tests.support.recorded_study import FINGERPRINT, SECRET, record
from tests.support.sweep_results import small_sweep


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], dict[str, OfflineRun]]:
    """The folder of the study, its ids, and its runs by key."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_MM_TEST_SECRET", "of-the-environment")
        ids = record(folder)
    places = {key: list((folder / "runs" / "wandb").glob(f"offline-run-*-{name}")) for key, name in ids.items()}
    assert all(len(found) == 1 for found in places.values()), "one folder per run"
    return folder, ids, {key: OfflineRun(found[0]) for key, found in places.items()}


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "report" / "sweep.csv").read_text().splitlines()))


def test_every_figure_of_the_csv_is_in_the_run_of_its_method_and_seed(recorded: Any) -> None:
    folder, _, runs = recorded
    assert list(runs) == ["base/seed1", "zero_fill/seed1", "adapted/seed1", "study"]
    for row in rows(folder):
        run = runs[f"{row['method']}/seed{row['seed']}"]
        assert run.values[f"sweep/{row['combination']}/{row['metric']}"] == float(row["value"])
    for key, run in runs.items():
        if "seed" in key and "base" not in key:
            method, seed = key.split("/seed")
            own = [row for row in rows(folder) if (row["method"], row["seed"]) == (method, seed)]
            figures = {name for name in run.history[0] if name.split("/")[0] == "sweep"}
            assert {f"sweep/{row['combination']}/{row['metric']}" for row in own} <= figures


def test_the_long_table_is_the_csv_with_directions(recorded: Any) -> None:
    folder, _, runs = recorded
    table = runs["study"].table("sweep/table")
    assert table["columns"] == [*rows(folder)[0], "direction"]
    written = [["" if cell is None else str(cell) for cell in line[:-1]] for line in table["data"]]
    assert written == [list(row.values()) for row in rows(folder)]
    assert {line[-1] for line in table["data"]} == {"max"}


def test_summaries_follow_the_direction_of_the_metric(recorded: Any) -> None:
    _, _, runs = recorded
    defined = {one.get("name"): one for one in runs["adapted/seed1"].of("metric")}
    assert defined["sweep/a+b/accuracy"]["summary"] == {"max": True}
    assert defined["sweep/drop/accuracy"]["summary"] == {"min": True}
    assert defined["curve/accuracy"]["step_metric"] == "curve/missing"


def test_summary_groups_job_types_and_tags(recorded: Any) -> None:
    folder, _, runs = recorded
    result = read(folder / "report")
    kinds = {key: (run.start["run_group"], run.start["job_type"]) for key, run in runs.items()}
    assert {group for group, _ in kinds.values()} == {"tiny"}
    assert {key.split("/")[0]: job for key, (_, job) in kinds.items()} == {
        "base": "fit", "zero_fill": "sweep", "adapted": "adapt", "study": "report",
    }  # fmt: skip
    assert {"mine", "adapted", "seed1", "adapt"} <= set(runs["adapted/seed1"].start["tags"])
    summary = runs["adapted/seed1"].summary
    own = [row.value for row in result.rows if row.method == "adapted" and row.seed == 1]
    assert summary["summary/mean"] == pytest.approx(sum(own[:-1]) / 6)
    assert summary["summary/worst"] == min(own)
    assert summary["summary/full"] == own[-1]
    assert summary["summary/drop"] == pytest.approx(0)
    assert summary["summary/parameters"] == 7
    assert summary["summary/seconds"] == 2.0
    assert summary["summary/full_unchanged"] == 0.0
    assert runs["base/seed1"].summary["summary/seconds"] == 2.0
    assert runs["study"].summary["summary/adapted/mean"] == pytest.approx(result.mean("adapted"))


def test_curves_have_one_line_per_number_of_missing_modalities(recorded: Any) -> None:
    _, _, runs = recorded
    lines = [line for line in runs["adapted/seed1"].history if "curve/missing" in line]
    assert [line["curve/missing"] for line in lines] == [0, 1, 2]
    assert [line["curve/primary"] for line in lines] == pytest.approx([0.61, 0.61, 0.61])


def test_charts_pictures_and_heat_map(recorded: Any) -> None:
    folder, _, runs = recorded
    study = runs["study"]
    for name in ("mean", "drop", "heat_map"):
        assert study.table(f"sweep/chart/{name}_table")["data"]
    assert len(study.table("sweep/chart/heat_map_table")["data"]) == 2 * 7
    assert not [key for run in runs.values() if run is not study for key in run.values if key.startswith("sweep/table")]
    for combination in ("a", "b+c", "a+b+c"):
        place = study.values[f"sweep/pictures/confusion/{combination}.path"]
        drawn = folder / "report" / "pictures" / f"confusion_{combination}.png"
        assert (study.folder / "files" / place).read_bytes() == drawn.read_bytes()
    assert (study.folder / "files" / study.values["sweep/heat_map.path"]).read_bytes().startswith(b"\x89PNG")


def test_adapters_are_artifacts_with_a_manifest_and_their_base(recorded: Any) -> None:
    _, ids, runs = recorded
    logged = runs["adapted/seed1"].of("artifact")
    names = {one["name"]: one for one in logged}
    assert [one["name"] for one in runs["study"].of("artifact")] == [f"run-{ids['study']}-sweep-table"]
    assert set(names) == {f"base-{FINGERPRINT[:16]}", "adapter-tiny-adapted-seed1"}
    base, adapter = names[f"base-{FINGERPRINT[:16]}"], names["adapter-tiny-adapted-seed1"]
    assert base["use_after_commit"], "the base is an input of the run"
    assert not adapter.get("use_after_commit")
    files = {one["path"] for one in adapter["manifest"]["contents"]}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    metadata = json.loads(adapter["metadata"])
    assert metadata["base"] == {"artifact": base["name"], "fingerprint": FINGERPRINT}
    assert metadata["method"] == "adapted"
    produced = runs["base/seed1"].of("artifact")
    assert [one["digest"] for one in produced] == [base["digest"]], "one artifact, whoever logs it"


def test_no_secret_is_sent(recorded: Any) -> None:
    _, _, runs = recorded
    for run in runs.values():
        content = run.text + "".join(
            path.read_text(errors="replace") for path in run.folder.rglob("*") if path.is_file()
        )
        assert SECRET not in content
        assert "of-the-environment" not in content
    assert '"***"' in runs["study"].text.replace("\\", "")
    assert "${oc.env:LIGHTNING_MM_TEST_SECRET}" in runs["study"].text


def test_a_recorded_study_is_not_written_again(recorded: Any) -> None:
    folder, ids, _ = recorded
    before = sorted((folder / "runs" / "wandb").iterdir())
    assert record(folder) == ids
    assert sorted((folder / "runs" / "wandb").iterdir()) == before


def test_an_open_offline_run_is_replaced(tmp_path: Path) -> None:
    planned = [PlannedRun("adapted/seed1", "adapt", SweepRecord(small_sweep(), ["adapted"], 0))]
    settings = {"save_dir": str(tmp_path)}
    ids = write_runs(planned, tmp_path, "group", settings)
    ledger = tmp_path / "wandb_runs.json"
    ledger.write_text(ledger.read_text().replace("finished", "open"))
    assert write_runs(planned, tmp_path, "group", settings) == ids
    (left,) = (tmp_path / "wandb").glob("offline-run-*")
    synced = left / f"run-{ids['adapted/seed1']}.wandb.synced"
    synced.touch()
    ledger.write_text(ledger.read_text().replace("finished", "open"))
    write_runs(planned, tmp_path, "group", settings)
    assert synced.exists(), "what has been synced stays"


def test_offline_runs_of_others_stay(tmp_path: Path) -> None:
    record = SweepRecord(small_sweep(), ["adapted"], 0)
    settings = {"save_dir": str(tmp_path), "id": "mine.1"}
    others = [tmp_path / "wandb" / f"offline-run-20260102_030405-{name}" for name in ("not-mine.1", "mine.1")]
    for folder in others:
        folder.mkdir(parents=True)
    for tag in ("a", "b"):
        assert write_runs([PlannedRun("study", "sweep", record, tags=[tag])], tmp_path, "g", settings) == {
            "study": "mine.1"
        }
        assert others[0].exists()
        assert others[1].exists() == (tag == "a"), "the second time it is a run of the study"


def test_a_further_method_changes_the_summaries_of_the_runs_and_makes_no_new_ones(tmp_path: Path) -> None:
    result, settings = small_sweep(), {"save_dir": str(tmp_path)}
    alone = replace(result, rows=[row for row in result.rows if row.method == "adapted"])
    further = [replace(row, method="dedicated", value=0.9) for row in result.rows if row.method == "adapted"]
    many = replace(result, rows=[*result.rows, *further])

    def write(one: SweepResult) -> str:
        planned = [PlannedRun("adapted/seed0", "adapt", SweepRecord(one, ["adapted"], 0))]
        (identity,) = write_runs(planned, tmp_path, "group", settings).values()
        return identity

    def parts() -> list[Path]:
        return sorted((tmp_path / "wandb").glob("offline-run-*"))

    first = write(alone)
    time.sleep(1)  # names of folders have the second
    assert write(many) == first
    assert write(many) == first
    _, second = parts()
    assert OfflineRun(second).start["run_id"] == first
    assert not OfflineRun(second).history, "lines are not written again"
    expected = SweepRecord(many, ["adapted"], 0).summary()
    assert expected["summary/recovered_gap"] == pytest.approx(many.recovered_gap("adapted"))
    for key in ("summary/recovered_gap", "summary/full_unchanged"):
        assert OfflineRun(second).summary[key] == expected[key]
    time.sleep(1)
    changed = replace(alone, rows=[replace(row, value=row.value / 2) for row in alone.rows])
    assert write(changed) != first, "other figures of its own are another run"


def test_runs_that_an_older_version_has_recorded_are_kept(tmp_path: Path) -> None:
    one = PlannedRun("adapted/seed0", "adapt", SweepRecord(small_sweep(), ["adapted"], 0))
    run = {"id": "old", "digest": one.old_digest(), "state": "finished", "mode": "offline", "url": None}
    ledger = {"study_id": "abcdef12", "runs": {one.key: run}}
    (tmp_path / "wandb_runs.json").write_text(json.dumps(ledger))
    assert write_runs([one], tmp_path, "group", {"save_dir": str(tmp_path)}) == {one.key: "old"}
    assert not (tmp_path / "wandb").exists()


def test_a_full_disk_leaves_a_run_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "sweep.png")

    planned = [PlannedRun("adapted/seed1", "adapt", SweepRecord(small_sweep(), ["adapted"], 0))]
    with monkeypatch.context() as patch:
        patch.setattr("lightning_mm.tracking.record.runs.write_record", full)
        with pytest.raises(LightningMMError, match=r"Biases: No space left on device\. The results are in .* again"):
            write_runs(planned, tmp_path, "group", {"save_dir": str(tmp_path)})
    assert '"open"' in (tmp_path / "wandb_runs.json").read_text()
    (identity,) = write_runs(planned, tmp_path, "group", {"save_dir": str(tmp_path)}).values()
    (whole,) = (tmp_path / "wandb").glob(f"offline-run-*-{identity}")
    assert OfflineRun(whole).summary["summary/mean"] > 0


def test_a_run_that_was_not_written_whole_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = small_sweep()
    result.rows = [replace(row, method=f"{row.method}{'x' * 999}{k}") for k in range(20) for row in result.rows]
    planned = [PlannedRun("study", "sweep", SweepRecord(result, charts=False))]
    with monkeypatch.context() as patch:
        patch.setattr("lightning_mm.tracking.record.runs.is_whole", lambda log: not log.is_file())
        with pytest.raises(
            LightningMMError, match=r"has not written all of .*\.wandb, as on a full disk\. The results"
        ):
            write_runs(planned, tmp_path, "group", {"save_dir": str(tmp_path)})
    assert '"open"' in (tmp_path / "wandb_runs.json").read_text()
    write_runs(planned, tmp_path, "group", {"save_dir": str(tmp_path)})
    assert '"finished"' in (tmp_path / "wandb_runs.json").read_text()
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    content = log.read_bytes()
    assert len(content) > 2 * BLOCK
    assert is_whole(log)
    for size in (0, 7, 1000, len(content) // 2, len(content) - 1):
        log.write_bytes(content[:size])
        assert not is_whole(log, seconds=0)


def test_a_damaged_ledger(tmp_path: Path) -> None:
    (tmp_path / "wandb_runs.json").write_text('{"study_id": "abcdef12", "runs": {"a": {"id": "../x"}}}')
    with pytest.raises(LightningMMError, match=r"wandb_runs.json is damaged .*; remove it to record the study again"):
        write_runs([], tmp_path, "group", {"mode": "offline"})


def test_nothing_is_recorded_where_wandb_is_disabled(tmp_path: Path) -> None:
    assert write_runs([PlannedRun("a", "sweep")], tmp_path, "group", {"mode": "disabled"}) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_full_combination_is_unchanged_or_not() -> None:
    result = small_sweep()
    assert full_unchanged(result, "zero_fill") == 1.0
    assert full_unchanged(result, "adapted") == 0.0
    equal = [row for row in result.rows if row.method == "zero_fill"]
    result.rows = equal + [type(row)("adapted", *list(vars(row).values())[1:]) for row in equal]
    assert full_unchanged(result, "adapted") == 1.0
    assert full_unchanged(result, "nobody") is None


def test_kind_basis_and_placement_are_read_from_the_config() -> None:
    callback = {"class_path": "lightning_mm.callbacks.FrozenBackboneAdapter"}
    assert _adapter_settings({}) == {"kind": "none", "basis": "none", "placement": "none"}
    plain = {"trainer": {"callbacks": callback}}
    assert _adapter_settings(plain) == {"kind": "SSF", "basis": "OneHot", "placement": "all"}
    given = {
        "adapter": {"class_path": "lightning_mm.adapters.LoRA", "init_args": {"rank": 2}},
        "basis": {"class_path": "lightning_mm.adapters.Additive"},
        "placement": {"budget": "0.25 %"},
    }
    chosen = {"trainer": {"callbacks": [{"class_path": "x.Y"}, {**callback, "init_args": given}]}}
    assert _adapter_settings(chosen) == {"kind": "LoRA", "basis": "Additive", "placement": "0.25 %"}
