"""The data sets of arXiv 2310.03986 through the real command line: every file sweeps, base and adapters resume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fake_data import write_data
from test_experiments import EXPERIMENTS, FITS, name_of, options, prepare, stacked
from test_new_tasks_cli_resume import states

from lightning_mm.cli import main

FAMILIES = ("mfnet", "nyudv2", "mcubes", "cmu_mosi", "cmu_mosei", "food101", "ntu_rgbd")
FEW = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
FEW += ["--trainer.logger", "false", "--trainer.log_every_n_steps", "1"]
pytestmark = [
    pytest.mark.slow,
    # a run is resumed from the checkpoint of another one's folder on purpose
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]


@pytest.fixture
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the generated files of the family beside."""
    given = request.node.callspec.params
    write_data(given["path"].parent.name if "path" in given else given["family"], tmp_path / "data")
    monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def every_epoch(path: Path, folder: Path) -> list[str]:
    """The files of a run, and one with its callbacks but a checkpoint after every epoch."""
    callbacks: list[Any] = yaml.safe_load(path.read_text())["trainer"]["callbacks"]
    for one in callbacks:
        if one["class_path"].endswith("ModelCheckpoint"):
            one["init_args"] = {"dirpath": "${trainer.default_root_dir}", "filename": "{epoch}", "save_top_k": -1}
    overlay = folder / "every_epoch.yaml"
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return [*stacked(path), "-c", str(overlay)]


@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_adapters_resume(family: str, here: Path) -> None:
    base = EXPERIMENTS / family / "base.yaml"
    for path in (base, base.with_name("ssf.yaml")):
        name = path.stem
        more = [] if path == base else ["--model.init_args.base_ckpt", "base/whole/epoch=1.ckpt"]
        command = ["fit", *every_epoch(path, here), *options(path), *FEW, *more, "--trainer.default_root_dir"]
        assert main([*command, f"{name}/whole"]) == 0
        torch.manual_seed(77)  # another process has another random state
        assert main([*command, f"{name}/resumed", "--ckpt_path", f"{name}/whole/epoch=0.ckpt"]) == 0
        whole, resumed = (states(here / name / run / "epoch=1.ckpt") for run in ("whole", "resumed"))
        assert list(whole) == list(resumed)
        assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
        before = states(here / name / "whole" / "epoch=0.ckpt")
        assert [key for key in whole if not torch.equal(whole[key], before[key])], "the second epoch trains"
    sweep = ["sweep", *stacked(path), *options(path), *more, "--ckpt_path", "ssf/whole/epoch=1.ckpt"]
    assert main([*sweep, "--trainer.fast_dev_run", "1"]) == 0


@pytest.mark.parametrize("path", [path for path in FITS if path.parent.name in FAMILIES], ids=name_of)
def test_every_file_sweeps(path: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare(path)
    overlay = yaml.safe_load(path.read_text())
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    short += ["--trainer.log_every_n_steps", "1", "--trainer.logger", "false"]
    files = [path]
    if overlay.get("model", {}).get("init_args", {}).get("base_ckpt"):
        files.insert(0, path.with_name("base.yaml"))
    for file in files:
        assert main(["fit", *stacked(file), *options(file), *short]) == 0
    root = overlay.get("trainer", {}).get("default_root_dir") or f"outputs/{path.parent.name}/base"
    checkpoint = next(Path().glob(re.sub(r"\$\{.*\}", "*", root) + "/*.ckpt"))
    command = ["sweep", *stacked(path), *options(path), "--ckpt_path", str(checkpoint)]
    assert main([*command, "--trainer.fast_dev_run", "1"]) == 0
    assert "mean" in capfd.readouterr().out
