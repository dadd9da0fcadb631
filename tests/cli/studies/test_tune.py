"""``lightning-mm tune``: options, mistakes, the table, a kill in the middle of a training, the best settings."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_mm.cli import main
from lightning_mm.cli.lightning.run import run_lightning
from lightning_mm.cli.studies import tune as verb
from lightning_mm.compare.tuning import read_tune
from tests.support.in_process import in_process
from tests.support.kill_study import KILL_STUDY, SURVIVED
from tests.support.repository import REPOSITORY
from tests.support.tiny_run import BASE
from tests.support.tunes import COMMANDS, LR, RANGES, fake_trial, write_tune

RATE = "model.init_args.optimizer.init_args.lr"
CALLBACKS = """
trainer:
  callbacks:
  - class_path: tests.support.kill_study.KillStudy
  - class_path: lightning_mm.callbacks.BestModelCheckpoint
    init_args: {monitor: val/loss, mode: min}
"""


def tiny(folder: Path, **content: Any) -> Path:
    """A search on a real network that is trained in a second."""
    (folder / "base.yaml").write_text(BASE)
    (folder / "callbacks.yaml").write_text(CALLBACKS)
    given = {
        "config": ["base.yaml", "callbacks.yaml"], "method": "grid", "out": str(folder / "out"),
        "metric": {"name": "val/miou", "goal": "maximize"}, "parameters": {RATE: {"values": [0.01, 0.1]}}, **content,
    }  # fmt: skip
    path = folder / "tune.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials in this process that only write files."""
    monkeypatch.setattr("lightning_mm.compare.processes", in_process)
    monkeypatch.setattr(verb, "look_in_worker", lambda tune: None)


def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_tune(tmp_path))
    for extra, message in (
        (["--jobs", "0"], "--jobs: expected 1 or more"),
        (["--trials", "0"], "--trials: expected 1 or more"),
        (["--trials", "9"], "--trials: this grid has 4"),
        (["--set", "nothing"], "--set: expected KEY=VALUE, got 'nothing'"),
        (["--set", "data.patch=[1"], "--set data.patch: '[1' is not YAML"),
        (["--set", "data.day=2026-99-99"], "--set data.day: '2026-99-99' is not YAML"),
        (["--set", f"{LR}=1"], f"--set {LR}: the search chooses it; change the file"),
        (["--set", "seed_everything=1"], "--set seed_everything: the study sets it"),
        (["--seeds", "1"], "unrecognized arguments: --seeds"),
    ):
        assert main(["tune", "-c", path, *extra]) == 2
        assert message in capsys.readouterr().err
    assert main(["tune", "-c", str(tmp_path / "nowhere.yaml")]) == 1
    assert "no file at" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("faked")
def test_the_table_is_printed_and_nothing_is_run_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "perform_trial", fake_trial)
    monkeypatch.setenv("COLUMNS", "120")
    path = str(write_tune(tmp_path))
    assert main(["tune", "-c", path, "--dry_run"]) == 0
    assert [line[:4] for line in capsys.readouterr().out.splitlines()] == ["open"] * 4 + ["4 tr"]
    for _ in range(2):
        assert main(["tune", "-c", path]) == 0
        out = capsys.readouterr().out
        assert re.search(r"1 . +3 . +0\.2 . +16 . +0\.221 ± 0\.0071", out)
        assert f"-c {tmp_path / 'ssf.yaml'} -c {tmp_path / 'out' / 'best.yaml'}" in out
    assert len((tmp_path / "out" / COMMANDS).read_text().splitlines()) == 16
    assert main(["tune", "-c", path, "--dry_run"]) == 0
    assert re.search(r"done  3 .*model.width=16  val/accuracy 0\.221", capsys.readouterr().out)


@pytest.mark.usefixtures("faked")
def test_options_change_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tune(tmp_path, method="random", trials=2, parameters=RANGES)
    options = ["-c", str(path), "--trials", "3", "--fast", "--set", "trainer.precision=16", "data.rate=1e-3"]
    changed = verb.changed(read_tune(path), verb.parse(options))
    assert len(changed.trials()) == 3
    assert changed.out == tmp_path / "out_fast"
    assert {"trainer.precision": 16, "data.rate": 0.001, "trainer.max_epochs": 1}.items() <= changed.settings.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"parameters": {f"{RATE}s": {"values": [1]}}},
            f"parameters: {RATE}s: there is no 'lrs' in model.init_args.optimizer.init_args; did you mean 'lr'? it has",
        ),
        (
            {"parameters": {"callbacks.BestModelCheckpoint.mood": {"values": ["min"]}}},
            "callbacks.BestModelCheckpoint.mood: there is no 'mood' in BestModelCheckpoint; did you mean 'mode'?",
        ),
        ({"settings": {"trainer.max_epoch": 1}}, "there is no 'max_epoch' in trainer; did you mean 'max_epochs'?"),
        ({"parameters": {RATE: {"values": [0.1, "fast"]}}}, "parameters: model.optimizer"),
        ({"metric": {"name": "val/iou", "goal": "maximize"}}, "metric: this task has val/loss, val/miou"),
        ({"config": ["base.yaml"]}, "training would write no best.ckpt"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    content: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "metric" not in content:  # one of them is found by the worker of a user
        monkeypatch.setattr("lightning_mm.compare.processes", in_process)
    assert main(["tune", "-c", str(tiny(tmp_path, **content))]) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("lightning-mm: error: ")
    assert message in error
    assert not list(tmp_path.rglob("*.done.json"))


@pytest.mark.slow
def test_killed_in_a_training_it_goes_on_and_the_best_settings_are_a_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny(tmp_path, parameters={RATE: {"values": [0.01, 1e20, 0.1]}})
    tune = read_tune(path)
    first, diverging, _ = tune.trials()
    environment = {**os.environ, "LIGHTNING_MM_NO_TYPE_HOOK": "1", KILL_STUDY: f"{diverging.name}/seed0"}
    command = [sys.executable, "-m", "lightning_mm", "tune", "-c", str(path)]
    died = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, check=False)
    assert died.returncode == -signal.SIGKILL
    kept = (tune.out / first.name / "seed0" / "fit.done.json").read_bytes()
    assert not (tune.out / diverging.name / "seed0" / "fit.done.json").exists()
    assert not (tune.out / "tune.csv").exists()
    assert main(["tune", "-c", str(path)]) == 0
    assert not list(tmp_path.rglob(SURVIVED)), "the worker ended with its search"
    assert (tune.out / first.name / "seed0" / "fit.done.json").read_bytes() == kept
    rows = list(csv.DictReader((tune.out / "tune.csv").read_text().splitlines()))
    assert [row["folder"] for row in rows][2] == diverging.name
    assert rows[2]["note"].startswith("seed 0: the training loss is nan")
    assert float(rows[0]["val/miou"]) >= float(rows[1]["val/miou"])
    assert not list(tune.out.rglob("sweep.csv")), "test data are never seen"
    capsys.readouterr()
    best = [part for file in (*tune.configs, tune.out / "best.yaml") for part in ("-c", str(file))]
    assert main(["fit", *best, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    trained = yaml.safe_load((tune.out / rows[0]["folder"] / "seed0" / "cell.yaml").read_text())
    assert printed["model"] == trained["model"]
    assert printed["data"] == trained["data"]
    assert printed["model"]["init_args"]["optimizer"]["init_args"]["lr"] == float(rows[0][RATE])
    figures = []
    for name, configs in {
        "best": best,
        "cell": ["-c", str(tune.out / rows[0]["folder"] / "seed0" / "cell.yaml")],
    }.items():
        words = [*configs, "--trainer.default_root_dir", str(tmp_path / name)]
        assert main(["fit", *words]) == 0
        figures.append(
            run_lightning(["validate", *words, "--ckpt_path", str(tmp_path / name / "best.ckpt")])["metrics"]
        )
    assert figures[0] == figures[1], "the run of the trial, in one process as in the other"
    assert figures[0].keys() >= {"val/loss", "val/miou"}
