"""Every YAML under ``experiments/`` through the real command line, on a batch or two, and the commands of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from test_data_ombria import TEST, TRAIN
from test_data_ombria import _write as write_ombria

from lightning_mm.cli import main
from lightning_mm.demo import CHANNELS, demo_commands, experiments_folder
from lightning_mm.errors import DataNotFoundError

EXPERIMENTS = REPOSITORY / "experiments"
FILES = sorted(EXPERIMENTS.rglob("*.yaml"))
LONGEST = 40
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false"]
SMALL = {"scenes": ["--data.dataset.init_args.size", "32"], "ombria": ["--data.dataset.init_args.size", "64"]}


def name_of(path: Path) -> str:
    return str(path.relative_to(EXPERIMENTS))


def stacked(path: Path) -> list[str]:
    """``base.yaml`` stands alone; every other file of a folder is an overlay on it."""
    files = [path] if path.name == "base.yaml" else [path.with_name("base.yaml"), path]
    return [part for file in files for part in ("-c", str(file))]


def test_there_are_experiments() -> None:
    assert {"scenes/base.yaml", "scenes/ssf.yaml"} <= {name_of(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_headed_by_what_they_show(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST
    header = [line for line in lines if line.startswith("#")]
    assert lines[: len(header)] == header, "the header stands first"
    assert any("lightning-mm fit" in line for line in header)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = path.parent.name
    if family == "ombria":
        write_ombria(tmp_path / "data" / "ombria", {"train": TRAIN, "test": TEST})
        monkeypatch.setenv("LIGHTNING_MM_DATA", str(tmp_path / "data"))
    # The folders in the files are relative: what is trained here stays here.
    monkeypatch.chdir(tmp_path)
    small = [*QUIET, *SMALL.get(family, []), "--data.batch_size", "4"]
    overlay = yaml.safe_load(path.read_text())
    base_ckpt = overlay.get("model", {}).get("init_args", {}).get("base_ckpt")
    if base_ckpt:
        # What the overlay builds on: a base that was trained for two steps with the file's own settings.
        few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
        few += ["--trainer.log_every_n_steps", "1", "--trainer.logger", "false"]
        assert main(["fit", *stacked(path.with_name("base.yaml")), *small, *few]) == 0
        assert Path(base_ckpt).is_file(), "the base writes its checkpoint where the overlay reads it"
    assert main(["fit", *stacked(path), *small, "--trainer.fast_dev_run", "2"]) == 0


def test_the_demo_is_made_of_commands_that_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = demo_commands(tmp_path, experiments_folder())
    verbs = [command[0] for _, command in commands]
    assert verbs == ["fit"] * (2 + len(CHANNELS)) + ["sweep"] * (1 + len(CHANNELS)) + ["table"]
    for _, command in commands[2:3]:
        assert main([*command, "--print_config"]) == 0
        config = yaml.safe_load(capsys.readouterr().out)
        channels = config["model"]["init_args"]["model"]["init_args"]["channels"]
        assert list(channels) == config["data"]["modalities"]
    assert list(tmp_path.iterdir()) == []


def test_the_demo_says_where_it_sought_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lightning_mm.demo.__file__", str(tmp_path / "site" / "lightning_mm" / "demo.py"))
    with pytest.raises(DataNotFoundError, match="_experiments/scenes"):
        experiments_folder()


@pytest.mark.slow
def test_the_demo_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--fast", "--out", "here"]) == 0
    out = capsys.readouterr().out
    assert "The report lies in here/report" in out
    lines = Path("here/report/sweep.csv").read_text().splitlines()
    figures = {tuple(line.split(",")[:2]) for line in lines[1:]}
    combinations = ["rgb", "depth", "thermal", "rgb+depth", "rgb+thermal", "depth+thermal", "rgb+depth+thermal"]
    expected = {(method, one) for method in ("zero_fill", "adapted") for one in combinations}
    assert figures == expected | {("dedicated", name) for name in CHANNELS}
    assert Path("here/report/sweep.png").stat().st_size > 0
