"""Performing one step: its config, its command, its marker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_mm.compare.step_runner import cut, finished, patched, perform, resolve
from lightning_mm.errors import LightningMMError
from tests.support.studies import fake, fake_command, first_step


def test_the_log_holds_the_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    step = first_step(tmp_path)

    def run(command: list[str]) -> dict[str, Any]:
        raise RuntimeError("out of luck")

    with capfd.disabled(), pytest.raises(RuntimeError):
        perform(step, run)
    assert "RuntimeError: out of luck" in (step.folder / "fit.log").read_text()


def test_a_step_whose_files_are_gone_is_run_again(tmp_path: Path) -> None:
    step = first_step(tmp_path)
    fake(step)
    assert finished(step) is not None
    (step.folder / "best.ckpt").unlink()
    assert finished(step) is None
    step.marker.write_text("[]")
    assert finished(step) is None


def test_what_an_unfinished_run_left_is_taken_out(tmp_path: Path) -> None:
    step = first_step(tmp_path)
    (step.folder / "sweep").mkdir(parents=True)
    (step.folder / "sweep" / "sweep.csv").write_text("old")
    step.marker.write_text(json.dumps({"key": "another"}))
    assert finished(step) is None
    assert fake(step)["cpu_seconds"] == 2.0
    assert sorted(path.name for path in step.folder.iterdir() if path.name != ".lock") == [
        "best.ckpt",
        "cell.yaml",
        "fit.done.json",
        "fit.log",
    ]
    step.marker.write_text("{half")
    assert finished(step) is None


def test_training_without_a_checkpoint_is_told(tmp_path: Path) -> None:
    step = first_step(tmp_path)

    def run(command: list[str]) -> dict[str, Any]:
        return fake_command(step, command) if "--print_config" in command else {}

    with pytest.raises(LightningMMError, match=r"training wrote no best\.ckpt; the study's config needs a ModelCheck"):
        perform(step, run)
    assert finished(step) is None


def test_settings_are_handed_on_as_the_command_line_takes_them(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def run(command: list[str]) -> dict[str, Any]:
        seen.append(command)
        print(yaml.safe_dump({key: {} for key in ("seed_everything", "trainer", "model", "data")}))
        raise SystemExit(0)

    resolve([Path("x.yaml")], {"a.b": [1, 2], "c": "word", "d": False, "e": 0.1}, run)
    assert seen == [["fit", "-c", "x.yaml", "--a.b=[1, 2]", "--c=word", "--d=false", "--e=0.1", "--print_config"]]


CONFIG: dict[str, Any] = {
    "data": {"modalities": ["a", "b", "c"], "train_policy": None, "dataset": {"channels": {"a": 1, "b": 2}}},
    "model": {"init_args": {"fill": None, "model": {"init_args": {"encoders": {"b": [{"c": 1}], "a": 2, "c": 3}}}}},
    "trainer": {"callbacks": [{"class_path": "x.KeyedSeed"}, {"class_path": "lightning.ModelCheckpoint"}]},
}


def test_patches() -> None:
    policy = {"class_path": "p"}
    changed = patched(CONFIG, {"callbacks": [{"class_path": "y"}], "train_policy": policy, "fill": {"class_path": "f"}})
    assert [one["class_path"] for one in changed["trainer"]["callbacks"]] == [
        "x.KeyedSeed",
        "y",
        "lightning.ModelCheckpoint",
    ]
    assert changed["data"]["train_policy"] == policy
    assert changed["model"]["init_args"]["fill"] == {"class_path": "f"}
    assert CONFIG["data"]["train_policy"] is None, "the config itself stays"


def test_arguments_of_a_callback_are_changed() -> None:
    changed = patched(CONFIG, {"init_args": {"KeyedSeed": {"seed": 5}}})
    assert changed["trainer"]["callbacks"][0] == {"class_path": "x.KeyedSeed", "init_args": {"seed": 5}}
    with pytest.raises(LightningMMError, match=r"there is no 'Other' among those of the configs, \['KeyedSeed'"):
        patched(CONFIG, {"init_args": {"Other": {}}})


def test_a_dedicated_network_is_cut_to_its_modalities() -> None:
    changed = patched(CONFIG, {"only": ["a", "c"]})
    assert changed["data"]["modalities"] == ["a", "c"]
    assert changed["model"]["init_args"]["model"]["init_args"]["encoders"] == {"a": 2, "c": 3}
    assert changed["data"]["dataset"]["channels"] == {"a": 1, "b": 2}, "not all modalities: something else"
    assert cut([{"a": 1, "b": {"a": 1, "b": 2}}], {"a", "b"}, ["b"]) == [{"b": {"a": 1, "b": 2}}]
